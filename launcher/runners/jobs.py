"""Jobs that were submitted, whichever engine has taken them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from launcher.errors import ExitCode, LauncherError
from launcher.rundir.layout import RunDirectory
from launcher.runners import docker, kubernetes, ray, skypilot, slurm
from launcher.runners.new_run import has_begun


class NoJobError(LauncherError):
    """There is no such run, or it was never submitted."""

    exit_code = ExitCode.REQUEST


class JobState(Protocol):
    """What an engine says of a job; as text, in the engine's words."""

    @property
    def active(self) -> bool:
        """Whether it runs, or will."""
        ...


class SubmittedJob(Protocol):
    """A job that an engine has taken. What it is asked raises an error of the engine's where that does not answer."""

    @property
    def number(self) -> str:
        """What the engine calls it."""
        ...

    @property
    def engine(self) -> str:
        """The engine, as its users call it."""
        ...

    def state(self) -> JobState | None:
        """What the engine says of it now; None where it has forgotten it."""
        ...

    def output(self, run: RunDirectory, follow: bool) -> Iterator[str]:
        """The lines that it has printed.

        Args:
            run: the directory of its run.
            follow: go on until it has ended.
        """
        ...

    def end(self, *, now: bool, say: Callable[[str], None]) -> JobState | None:
        """End it and wait for that; what the engine says of it then.

        Args:
            now: do not wait for an update and a checkpoint.
            say: takes a sentence that the user should read.
        """
        ...


def find_job(run: RunDirectory) -> SubmittedJob | None:
    """The last job of a run, of whichever engine; None where it was never submitted."""
    kept = [(path, of) for path, of in _of_engines(run) if path.exists()]
    kept.sort(key=lambda one: one[0].stat().st_mtime)
    return kept[-1][1](run) if kept else None


def clear_away(job: SubmittedJob) -> int:
    """Delete what an engine keeps of a job that has ended and is of no use to anybody; how many things that was."""
    return job.clear() if isinstance(job, kubernetes.ClusterJob) else 0


def _of_engines(run: RunDirectory) -> tuple[tuple[Path, Callable[[RunDirectory], SubmittedJob | None]], ...]:
    """The files that keep what an engine calls the job of a run, and what reads each."""
    return (
        (run.slurm_job, slurm.Job.of),
        (run.ray_job, ray.Job.of),
        (run.docker_job, docker.Container.of),
        (run.skypilot_job, skypilot.ManagedJob.of),
        (run.kubernetes_job, kubernetes.ClusterJob.of),
    )


def job_of(run: RunDirectory) -> SubmittedJob:
    """The last job of a run.

    Raises:
        NoJobError: it was never submitted.
    """
    job = find_job(run)
    if job is None:
        raise NoJobError(f"{run.path} was not submitted: it has no job.")
    return job


def job_run(name: str, runs: Path) -> RunDirectory:
    """The run that is meant by its directory, its id, or what its job is called.

    Args:
        name: what was typed.
        runs: the folder of all runs.

    Raises:
        NoJobError: there is no such run, or more than one.
    """
    found = job_runs(name, runs)
    if len(found) > 1:
        raise NoJobError(f"Job {name} is an array of {len(found)} runs. Name one: {job_of(found[0]).number}, say.")
    return found[0]


def job_runs(name: str, runs: Path) -> list[RunDirectory]:
    """The runs that are meant: one as by `job_run`, or all of an array by its number.

    Args:
        name: what was typed.
        runs: the folder of all runs.

    Raises:
        NoJobError: there is no such run.
    """
    for path in (runs / name, Path(name)):
        run = RunDirectory(path.absolute())
        if name and path.is_dir() and (run.recipe.exists() or find_job(run) is not None or has_begun(run)):
            return [run]
    numbers = [(run, job.number) for run in submitted_runs(runs) if (job := find_job(run)) is not None]
    found = [run for run, number in numbers if number == name][:1]
    if not found:
        of_array = [(int(number.rpartition("_")[2]), run) for run, number in numbers if _is_task(number, name)]
        found = [run for _, run in sorted(of_array, key=lambda one: one[0])]
    if found:
        return found
    what = f"was submitted as job {name}" if name.replace("_", "").isdecimal() else f"is called {name}"
    raise NoJobError(f"No run in {runs} {what}. Say by --runs where its folder is.")


def _is_task(number: str, array: str) -> bool:
    """Whether a job is a task of an array of Slurm's."""
    return array.isdecimal() and re.fullmatch(rf"{array}_[0-9]+", number) is not None


def submitted_runs(runs: Path) -> list[RunDirectory]:
    """The runs of a folder that were submitted, in the order of their names."""
    found = (RunDirectory(path.absolute()) for path in runs.glob("*") if path.is_dir())
    submitted = (run for run in found if any(path.exists() for path, _ in _of_engines(run)))
    return sorted(submitted, key=lambda run: run.path.name)
