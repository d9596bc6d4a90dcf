"""Calls of kubectl: what it is told is worked out elsewhere."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.errors import ExitCode, LauncherError
from launcher.launch.kubernetes import LABEL, RESOURCES, KubernetesJob
from launcher.rundir.layout import RunDirectory, write_atomically

_ANSWER = 120.0  # seconds that a command may take which waits for nothing
# Conditions of a Job, a JobSet or a TrainJob, of which one says how it stands.
_CONDITIONS = {"Complete": "Complete", "Completed": "Complete", "Failed": "Failed", "Suspended": "Suspended"}
_FOLLOWED_AT_MOST = 1000  # pods


class KubernetesError(LauncherError):
    """Kubernetes is not there, or does not do what it was asked for."""

    exit_code = ExitCode.REQUEST


@dataclass(frozen=True)
class ClusterState:
    """What Kubernetes says of a job.

    Attributes:
        state: Complete, Failed, Suspended or Active.
        details: why, or how many pods are ready.
    """

    state: str
    details: str = ""

    @property
    def active(self) -> bool:
        """Whether it runs, or will."""
        return self.state not in ("Complete", "Failed")

    def __str__(self) -> str:
        return f"{self.state}, {self.details}" if self.details else self.state


@dataclass(frozen=True)
class ClusterJob:
    """A job that Kubernetes has taken.

    Attributes:
        kind: what it is: job, jobset or trainjob.
        number: its name, which is what Kubernetes calls it by.
        namespace: where; empty for that of kubectl's context.
        times: how often its run has been submitted.
    """

    kind: str
    number: str
    namespace: str = ""
    times: int = 1

    engine = "Kubernetes"

    @staticmethod
    def of(run: RunDirectory) -> ClusterJob | None:
        """The last job of a run; None where it was never submitted."""
        try:
            kind, name, namespace, times = run.kubernetes_job.read_text(encoding="utf-8").strip().split("/")
            return ClusterJob(kind, name, namespace, int(times)) if kind in RESOURCES else None
        except (OSError, ValueError):
            return None

    def state(self) -> ClusterState | None:
        """What Kubernetes says of it now; None where it was deleted.

        Raises:
            KubernetesError: Kubernetes does not answer.
        """
        resource = f"{RESOURCES[self.kind]}/{self.number}"
        said = call(["kubectl", "get", resource, *self._where, "--ignore-not-found", "--output=json"])
        return _state_of(json.loads(said)) if said.strip() else None

    def output(self, run: RunDirectory, follow: bool) -> Iterator[str]:
        """The lines that its pods have printed, each after the name of its pod.

        Args:
            run: the directory of its run.
            follow: until they have ended.

        Raises:
            KubernetesError: Kubernetes does not tell.
        """
        command = ["kubectl", "logs", f"--selector={LABEL}={self.number}", *self._where, "--prefix", "--tail=-1"]
        command += ["--follow", f"--max-log-requests={_FOLLOWED_AT_MOST}"] if follow else []
        last = ""
        try:
            with subprocess.Popen(
                command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            ) as process:
                for last in process.stdout or ():
                    yield last.rstrip("\r\n")
        except FileNotFoundError:
            raise _missing() from None
        if process.returncode:
            raise KubernetesError(f"kubectl logs has failed: {last.strip() or 'it says nothing'}")

    def end(self, *, now: bool, say: Callable[[str], None]) -> ClusterState | None:
        """Delete it with all that belongs to it and wait for its pods, which save before they end.

        Args:
            now: do not wait for an update and a checkpoint.
            say: takes a sentence that the user should read.

        Raises:
            KubernetesError: Kubernetes does not answer.
        """
        if not now:
            say(f"job {self.number} ends at its next update, with a checkpoint; --now does not wait for that")
        mine = [f"--selector={LABEL}={self.number}", *self._where]
        resource = RESOURCES[self.kind]
        waits = [] if now else ["--wait", "--cascade=foreground"]
        call(["kubectl", "delete", resource, *mine, *(waits or ["--wait=false"])], patience=None)
        if now:
            call(["kubectl", "delete", "pods", *mine, "--force", "--grace-period=0"], patience=None)
        call(["kubectl", "delete", "configmaps,services", *mine])
        return self.state()

    @property
    def _where(self) -> list[str]:
        return [f"--namespace={self.namespace}"] if self.namespace else []


def submit(job: KubernetesJob, run: RunDirectory, kind: str, namespace: str, times: int) -> ClusterJob:
    """Write the manifest of a job, let the server check it, and apply it; its name is kept in the run's directory.

    Args:
        job: the job, the object that a dry run prints.
        run: the directory of the run, which exists.
        kind: what it is.
        namespace: where; empty for that of kubectl's context.
        times: how often the run has been submitted, this time included.

    Raises:
        KubernetesError: Kubernetes does not take it.
    """
    for path, text in job.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text, lasting=True)
    call(job.check)
    call(job.argv)
    made = ClusterJob(kind, job.manifests[-1]["metadata"]["name"], namespace, times)
    write_atomically(run.kubernetes_job, f"{kind}/{made.number}/{namespace}/{times}\n", lasting=True)
    return made


def call(command: Sequence[str], patience: float | None = _ANSWER) -> str:
    """What a command of kubectl prints.

    Args:
        command: the command.
        patience: seconds that it may take; None for a command that waits for something.

    Raises:
        KubernetesError: it is not installed, fails, or does not end.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=patience, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise _missing() from None
    except subprocess.TimeoutExpired:
        raise KubernetesError(f"kubectl {command[1]} has not answered for {patience:g} seconds.") from None
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise KubernetesError(f"kubectl {command[1]} refuses: {'; '.join(said).rstrip('.?') or done.returncode}.")
    return done.stdout


def _missing() -> KubernetesError:
    return KubernetesError("kubectl is not installed here, and it is what Kubernetes is asked by.")


def _state_of(found: dict[str, Any]) -> ClusterState:
    status = found.get("status") or {}
    for condition in reversed(status.get("conditions") or []):
        if condition.get("status") == "True" and condition.get("type") in _CONDITIONS:
            why = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
            return ClusterState(_CONDITIONS[condition["type"]], why)
    wanted = (found.get("spec") or {}).get("parallelism")
    return ClusterState("Active", f"{status.get('ready') or 0} of {wanted} pods ready" if wanted else "")
