"""A managed job of SkyPilot: its call, and the record of it. What it is told is worked out elsewhere."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from launcher.launch.submission import Submission
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.runners.launch_files import write_files
from launcher.runners.program import Program, ProgramError


class SkyPilotError(ProgramError):
    """SkyPilot is not there, or does not take the job; it has said why."""


_SKY = Program(SkyPilotError, "SkyPilot is not installed here: there is no {name}. See docs.skypilot.co.")


@dataclass(frozen=True)
class JobState:
    """Where the state of a job is told: SkyPilot tells it to people, in a table."""

    active = True

    def __str__(self) -> str:
        return "SkyPilot: see sky jobs queue"


@dataclass(frozen=True)
class ManagedJob:
    """A job that SkyPilot has taken, whose own commands ask for it.

    Attributes:
        number: its name.
    """

    number: str

    engine = "SkyPilot"

    @staticmethod
    def of(run: RunDirectory) -> ManagedJob | None:
        """The last job of a run; None where it was never submitted."""
        try:
            name = run.skypilot_job.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return ManagedJob(name) if name else None

    def state(self) -> JobState:
        """Where its state is told."""
        return JobState()

    def output(self, run: RunDirectory, follow: bool) -> Iterator[str]:
        """Nothing: SkyPilot has it.

        Raises:
            SkyPilotError: always, with the command that shows it.
        """
        raise SkyPilotError(f"SkyPilot has what it has printed: sky jobs logs --name {self.number}")

    def end(self, *, now: bool, say: Callable[[str], None]) -> JobState:
        """Nothing: SkyPilot ends it.

        Raises:
            SkyPilotError: always, with the command that does.
        """
        raise SkyPilotError(f"SkyPilot ends it: sky jobs cancel --name {self.number}")


def submit(job: Submission, run: RunDirectory) -> None:
    """Write the files of a job and submit it, with SkyPilot's own words on the terminal; its name is kept.

    Args:
        job: the job, the object that a dry run prints.
        run: the directory of the run, which exists.

    Raises:
        SkyPilotError: SkyPilot is not there, or does not take it.
    """
    write_files(job.files)
    with _SKY.startable(job.argv):
        done = subprocess.run(job.argv, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SkyPilotError(f"sky has not taken the job: exit code {done.returncode}.")
    write_atomically(run.skypilot_job, f"{run.path.name}\n", lasting=True)
