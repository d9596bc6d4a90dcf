"""Calls of kubectl: what it is told is worked out elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
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
_LOOK = 2.0  # seconds between two looks for pods that print
# What kubectl writes for its makers, and an advice that would let a server drop what it does not know.
_LOG = re.compile(r"[EWIF]\d{4} \d\d:\d\d:\d\d")
_ADVICE = re.compile(r"; if you choose to ignore these errors, turn validation off with --validate=false")


class KubernetesError(LauncherError):
    """Kubernetes is not there, or does not do what it was asked for.

    Attributes:
        printed: what kubectl had printed before it failed.
    """

    exit_code = ExitCode.REQUEST
    printed = ""


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
            follow: until they have ended, those that have not begun included.

        Raises:
            KubernetesError: there are none yet, or Kubernetes does not tell.
        """
        while True:
            told = False
            for line in self._printed(follow):
                told = True
                yield line
            if told:
                return
            state = self.state() if follow else None
            if state is None or not state.active:
                raise KubernetesError(
                    f"Job {self.number} has printed nothing yet. Ask how it stands: launcher status {self.number}"
                )
            time.sleep(_LOOK)

    def _printed(self, follow: bool) -> Iterator[str]:
        command = ["kubectl", "logs", f"--selector={LABEL}={self.number}", *self._where, "--prefix", "--tail=-1"]
        command += ["--follow", f"--max-log-requests={_FOLLOWED_AT_MOST}"] if follow else []
        with tempfile.TemporaryFile("w+") as errors:
            try:
                with subprocess.Popen(
                    command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
                ) as process:
                    for line in process.stdout or ():
                        yield line.rstrip("\r\n")
            except FileNotFoundError:
                raise _missing() from None
            errors.seek(0)
            if process.returncode:
                raise KubernetesError(f"kubectl logs has failed: {_sentence(errors.read()) or 'it says nothing'}.")

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

    def take_back(self, error: KubernetesError) -> None:
        """Delete what was made of it before kubectl failed, and nothing that was there.

        Args:
            error: what it has failed with.

        Raises:
            KubernetesError: that cannot be deleted; it says why and what is left.
        """
        lines = (line.strip().rpartition(" ") for line in error.printed.splitlines())
        names = [name for name, _, done in lines if done == "created"]
        try:
            if names:
                call(["kubectl", "delete", *names, *self._where, "--ignore-not-found"])
        except KubernetesError as another:
            raise KubernetesError(f"{error} What was made before is left: {', '.join(names)}. {another}") from None

    @property
    def _where(self) -> list[str]:
        return [f"--namespace={self.namespace}"] if self.namespace else []


def submit(job: KubernetesJob, run: RunDirectory, kind: str, namespace: str, times: int) -> ClusterJob:
    """Write the manifest of a job, let the server check it, and create it; its name is kept in the run's directory.

    A check does not see all that may forbid it: what was made before something was refused is deleted again.

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
    made = ClusterJob(kind, job.manifests[-1]["metadata"]["name"], namespace, times)
    call(job.check)
    try:
        call(job.argv)
    except KubernetesError as error:
        made.take_back(error)
        raise
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
    except subprocess.TimeoutExpired as expired:
        error = KubernetesError(f"kubectl {command[1]} has not answered for {patience:g} seconds.")
        error.printed = (expired.stdout or b"").decode(errors="replace")
        raise error from None
    if done.returncode:
        error = KubernetesError(f"kubectl {command[1]} refuses: {_sentence(done.stderr) or done.returncode}.")
        error.printed = done.stdout
        raise error
    return done.stdout


def _sentence(said: str) -> str:
    """What kubectl says of a failure: each thing once."""
    lines = dict.fromkeys(_ADVICE.sub("", line.strip()) for line in said.splitlines() if not _LOG.match(line))
    return "; ".join(filter(None, lines)).rstrip(".?")


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
