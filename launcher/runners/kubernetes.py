"""Jobs that Kubernetes has taken: what they are is worked out elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from launcher.launch.kubernetes import LABEL, RESOURCES, RUN_LABEL, KubernetesJob
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.runners.kubectl import KUBECTL, Cluster, KubernetesError
from launcher.runners.launch_files import write_files
from launcher.runners.pod_logs import PodLogs
from launcher.runners.runs_option import runs_option

# Conditions of a Job, a JobSet or a TrainJob, of which one says how it stands.
_CONDITIONS = {"Complete": "Complete", "Completed": "Complete", "Failed": "Failed", "Suspended": "Suspended"}


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
        cluster: where.
        run: what tells the jobs of its run from those of others.
        times: how often its run has been submitted.
    """

    kind: str
    number: str
    cluster: Cluster
    run: str
    times: int

    engine = "Kubernetes"

    @staticmethod
    def of(run: RunDirectory) -> ClusterJob | None:
        """The last job of a run; None where it was never submitted."""
        try:
            kept = json.loads(run.kubernetes_job.read_text(encoding="utf-8"))
            job = ClusterJob(**{**kept, "cluster": Cluster(**kept["cluster"])})
            return job if job.kind in RESOURCES and job.number and int(job.times) else None
        except (OSError, ValueError, TypeError, LookupError):
            return None

    def keep(self, run: RunDirectory) -> None:
        """Keep what it is called in the directory of its run."""
        write_atomically(run.kubernetes_job, json.dumps(asdict(self)) + "\n", lasting=True)

    def state(self) -> ClusterState | None:
        """What Kubernetes says of it now; None where it was deleted.

        Raises:
            KubernetesError: Kubernetes does not answer.
        """
        asked = ["kubectl", "get", f"{RESOURCES[self.kind]}/{self.number}", *self.cluster.flags]
        return KUBECTL.ask([*asked, "--ignore-not-found", "--output=json"], self._state_in)

    def output(self, run: RunDirectory, follow: bool) -> Iterator[str]:
        """The lines that its pods have printed, each after the name of its pod.

        Args:
            run: the directory of its run.
            follow: until it has ended, also by pods that begin meanwhile.

        Raises:
            KubernetesError: there are none yet, or Kubernetes does not tell.
        """

        def active() -> bool:
            state = self.state()
            return state is not None and state.active

        logs = PodLogs(self._mine)
        yield from logs.followed(active) if follow else logs.printed()
        if logs.silent:
            raise KubernetesError(
                f"Job {self.number} has printed nothing yet. Ask how it stands: "
                f"launcher status {self.number}{runs_option(run.path.parent)}"
            )

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
        waits = ["--wait=false"] if now else ["--wait", "--cascade=foreground"]
        KUBECTL.call(["kubectl", "delete", RESOURCES[self.kind], *self._mine, *waits], patience=None)
        if now:
            KUBECTL.call(["kubectl", "delete", "pods", *self._mine, "--force", "--grace-period=0"], patience=None)
        KUBECTL.call(["kubectl", "delete", "configmaps,services", *self._mine])
        return self.state()

    def clear(self) -> int:
        """Delete what is left of the jobs of its run, all of which have ended; how many objects that was.

        Raises:
            KubernetesError: Kubernetes does not answer.
        """
        all_of_run = [f"--selector={RUN_LABEL}={self.run}", *self.cluster.flags]
        said = KUBECTL.call(["kubectl", "delete", f"{RESOURCES[self.kind]},configmaps,services", *all_of_run])
        return sum("deleted" in line for line in said.splitlines())

    def take_back(self, error: BaseException) -> None:
        """Delete what was made of it before something went wrong, and nothing that was there.

        Args:
            error: what it was. Of what has failed by itself all is known that was made; else it is found by its labels,
                which no other job has.

        Raises:
            KubernetesError: that cannot be deleted; it says why and what is left.
        """
        printed = error.printed if isinstance(error, KubernetesError) else None
        lines = (line.strip().rpartition(" ") for line in (printed or "").splitlines())
        names = [name for name, _, done in lines if done == "created"]
        what = names if printed is not None else [f"{RESOURCES[self.kind]},configmaps,services", *self._selected]
        try:
            if what:
                wait = [] if printed is not None else ["--wait=false"]
                KUBECTL.call(["kubectl", "delete", *what, *self.cluster.flags, "--ignore-not-found", *wait])
        except KubernetesError as another:
            left = f"What was made before is left: {', '.join(names)}." if names else "What was made may be left."
            why = f"{error} " if isinstance(error, KubernetesError) else ""
            raise KubernetesError(f"{why}{left} {another} Delete it by launcher cancel {self.number}.") from None

    @property
    def _selected(self) -> list[str]:
        return [f"--selector={LABEL}={self.number},{RUN_LABEL}={self.run}"]

    @property
    def _mine(self) -> list[str]:
        """What tells kubectl which objects belong to it, and where they are."""
        return [*self._selected, *self.cluster.flags]

    def _state_in(self, said: str) -> ClusterState | None:
        found = json.loads(said) if said.strip() else None
        if found is None or found.get("metadata", {}).get("labels", {}).get(RUN_LABEL, self.run) != self.run:
            return None  # it was deleted, and another run has a job of that name by now
        return _state_of(found)


def submit(job: KubernetesJob, run: RunDirectory, kind: str, namespace: str, times: int) -> ClusterJob:
    """Write the manifest of a job, let the server check it, and create it.

    A check does not see all that may forbid it: what was made before something went wrong is deleted again. What it is
    called is kept in the run's directory before it is there, so that whatever is left can be asked for and deleted.

    Args:
        job: the job, the object that a dry run prints.
        run: the directory of the run, which exists.
        kind: what it is.
        namespace: where; empty for that of kubectl's context.
        times: how often the run has been submitted, this time included.

    Raises:
        KubernetesError: Kubernetes does not take it.
    """
    write_files(job.files)
    KUBECTL.call(job.check)
    metadata = job.manifests[-1]["metadata"]
    made = ClusterJob(kind, metadata["name"], Cluster.current(namespace), metadata["labels"][RUN_LABEL], times)
    before = ClusterJob.of(run)
    made.keep(run)
    try:
        KUBECTL.call(job.argv)
    except BaseException as error:
        made.take_back(error)
        if before is None:
            run.kubernetes_job.unlink()
        else:
            before.keep(run)
        raise
    return made


def _state_of(found: dict[str, Any]) -> ClusterState:
    status = found.get("status") or {}
    for condition in reversed(status.get("conditions") or []):
        if condition.get("status") == "True" and condition.get("type") in _CONDITIONS:
            why = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
            return ClusterState(_CONDITIONS[condition["type"]], why)
    wanted = (found.get("spec") or {}).get("parallelism")
    return ClusterState("Active", f"{status.get('ready') or 0} of {wanted} pods ready" if wanted else "")
