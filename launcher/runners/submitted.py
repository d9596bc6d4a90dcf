"""Runs that were submitted, whatever has taken their jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launcher.errors import ExitCode, LauncherError
from launcher.rundir.layout import RunDirectory
from launcher.runners.docker import Container
from launcher.runners.follow import LineFollower
from launcher.runners.kubernetes import ClusterJob
from launcher.runners.slurm import Job, SlurmError, ended

_LOOK = 0.5  # seconds between two looks at the file
_ASK = 5.0  # seconds between two questions to Slurm


class NotSubmittedError(LauncherError):
    """There is no such run, or it has no job."""

    exit_code = ExitCode.REQUEST


class State(Protocol):
    """What an engine says of a job, in its own words."""

    @property
    def state(self) -> str:
        """Its state."""
        ...

    @property
    def active(self) -> bool:
        """Whether it runs, or will."""
        ...


class Submitted(Protocol):
    """A job that an engine has taken."""

    @property
    def name(self) -> str:
        """Its number or name there."""
        ...

    @property
    def engine(self) -> str:
        """What has taken it."""
        ...

    def state(self) -> State | None:
        """What the engine says of it; None where it has forgotten it."""
        ...

    def lines(self, follow: bool) -> Iterator[str]:
        """What it has printed; until it has ended, if it is to be followed."""
        ...

    def end(self, now: bool, say: Callable[[str], None]) -> State | None:
        """End it, with a checkpoint or now, and wait for that; what the engine says of it then."""
        ...


@dataclass(frozen=True)
class SlurmSubmitted:
    """A job that Slurm has taken.

    Attributes:
        job: the job.
        log: the file that takes what it prints.
    """

    job: Job
    log: Path
    engine = "Slurm"

    @property
    def name(self) -> str:
        """Its number."""
        return self.job.number

    def state(self) -> State | None:
        """What Slurm says of it; None where it has forgotten it."""
        return self.job.state()

    def lines(self, follow: bool) -> Iterator[str]:
        """What it and the jobs before it have printed; until it has ended, if it is to be followed."""
        if not follow and not self.log.exists():
            raise SlurmError(f"Job {self.name} has printed nothing yet. Ask how it stands: launcher status {self.name}")
        lines = LineFollower(self.log)
        asked, active = float("-inf"), follow
        while True:
            if active and time.monotonic() - asked > _ASK:
                asked = time.monotonic()
                state = self.job.state()
                active = state is not None and state.active
            yield from lines.new()
            if not active:
                return
            time.sleep(_LOOK)

    def end(self, now: bool, say: Callable[[str], None]) -> State | None:
        """End it, with a checkpoint or now, and wait for that; what Slurm says of it then."""
        return ended(self.job, now=now, say=say)


def submitted(run: RunDirectory) -> Submitted | None:
    """The last job of a run; None where it was never submitted."""
    found: list[tuple[Path, Submitted]] = []
    if job := Job.of(run):
        found.append((run.slurm_job, SlurmSubmitted(job, run.slurm_log)))
    if container := Container.of(run):
        found.append((run.docker_job, container))
    if cluster_job := ClusterJob.of(run):
        found.append((run.kubernetes_job, cluster_job))
    return max(found, key=lambda one: one[0].stat().st_mtime)[1] if found else None


def job_of(run: RunDirectory) -> Submitted:
    """The last job of a run.

    Raises:
        NotSubmittedError: it was never submitted.
    """
    job = submitted(run)
    if job is None:
        raise NotSubmittedError(f"{run.path} was not submitted: it has no job.")
    return job


def submitted_runs(runs: Path) -> list[RunDirectory]:
    """The runs of a folder that were submitted, in the order of their names."""
    found = (RunDirectory(path.absolute()) for path in runs.glob("*") if path.is_dir())
    return sorted((run for run in found if submitted(run)), key=lambda run: run.path.name)


def job_run(name: str, runs: Path) -> RunDirectory:
    """The run that is meant by its directory, its id, or the name of its job.

    Args:
        name: what was typed.
        runs: the folder of all runs.

    Raises:
        NotSubmittedError: there is no such run.
    """
    for path in (runs / name, Path(name)):
        if path.is_dir():
            return RunDirectory(path.absolute())
    for run in submitted_runs(runs):
        if job_of(run).name == name:
            return run
    what = f"was submitted as job {name}" if name.isdecimal() else f"is called {name}"
    raise NotSubmittedError(f"No run in {runs} {what}. Say by --runs where its folder is.")
