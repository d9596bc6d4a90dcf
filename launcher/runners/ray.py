"""Calls of Ray's own commands for jobs: what they are told is worked out elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from secrets import token_hex

from launcher.errors import Mistake, RequestError
from launcher.launch.submission import Submission
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.runners.launch_files import write_files
from launcher.runners.program import Program, ProgramError, text_of

_ID = re.compile(r"\braysubmit_\w+")
_NAMED = "--submission-id="
# Ray tells it in sentences; what runs still or waits, by its own word.
_TOLD = re.compile(r"Job '[^']+' (succeeded|was stopped|failed)\b|Status for job '[^']+': (?:JobStatus\.)?(\w+)")
_WORDS = {"succeeded": "SUCCEEDED", "was stopped": "STOPPED", "failed": "FAILED"}
_LOOK = 1.0  # seconds between two questions, each of which starts a program
_ANSWER = 120.0  # seconds that a command may take: it imports much


class RayError(ProgramError):
    """Ray is not there, or does not do what it was asked for."""


def _complaint(lines: list[str]) -> str:
    return lines[-1]


_RAY = Program(
    RayError,
    "Ray is not installed here. Install it with pip install 'launcher[ray]'.",
    patience=_ANSWER,
    silence="Is the cluster there?",
    complaint=_complaint,
)


@dataclass(frozen=True)
class JobState:
    """What Ray says of a job.

    Attributes:
        state: its state, in Ray's words.
    """

    state: str

    @property
    def active(self) -> bool:
        """Whether it runs, or will."""
        return self.state in ("PENDING", "RUNNING")

    def __str__(self) -> str:
        return self.state


@dataclass(frozen=True)
class Job:
    """A job that was submitted.

    Attributes:
        number: what Ray calls it.
        address: the cluster that has it; empty for that of Ray's own settings.
    """

    number: str
    address: str = ""

    engine = "Ray"

    @staticmethod
    def of(run: RunDirectory) -> Job | None:
        """The last job of a run; None where it was never submitted."""
        try:
            number, _, address = run.ray_job.read_text(encoding="utf-8").strip().partition(" ")
        except (OSError, ValueError):
            return None
        return Job(number, address) if _ID.fullmatch(number) else None

    def keep(self, run: RunDirectory) -> None:
        """Keep what it is called in the directory of its run."""
        write_atomically(run.ray_job, f"{self.number} {self.address}".strip() + "\n", lasting=True)

    def is_stopped(self, refused: bool) -> bool:
        """Stop it where Ray has it though its submission has failed; whether it may have it.

        Args:
            refused: whether Ray has said that it does not take it.
        """
        try:
            call(self._command("stop", "--no-wait"))
        except RayError as error:
            return not refused and "does not exist" not in str(error)
        return True

    def state(self) -> JobState | None:
        """What Ray says of it now; None where it has forgotten it.

        Raises:
            RayError: Ray does not answer.
        """
        try:
            said = call(self._command("status"))
        except RayError as error:
            if "does not exist" in str(error):
                return None
            raise
        told = _TOLD.search(said)
        if told is None:
            raise RayError(f"ray job status has answered {said.strip()!r}, which names no state.")
        return JobState(_WORDS.get(told[1], told[2]))

    def output(self, run: RunDirectory, follow: bool) -> Iterator[str]:
        """The lines that it has printed; with `follow` until it has ended.

        Raises:
            RayError: Ray is not installed here.
        """
        command = self._command("logs", *(["--follow"] if follow else []))
        with _RAY.started(command, stderr=None) as process:
            for line in text_of(process):
                yield line.rstrip("\r\n")

    def end(self, *, now: bool, say: Callable[[str], None]) -> JobState | None:
        """End it and wait for that; what Ray says of it then.

        Raises:
            RequestError: it is to end at once.
            RayError: Ray does not answer.
        """
        if now:
            mistake = Mistake("--now", "Ray ends a job in one way only", "Leave it out: the run saves and ends soon")
            raise RequestError([mistake])
        say(f"job {self.number} ends at its next update, with a checkpoint")
        call(self._command("stop", "--no-wait"))
        while (state := self.state()) is not None and state.active:
            time.sleep(_LOOK)
        return state

    def _command(self, what: str, *options: str) -> list[str]:
        address = [f"--address={self.address}"] if self.address else []
        return ["ray", "job", what, *address, *options, self.number]


def submit(job: Submission, run: RunDirectory, address: str | None) -> Job:
    """Write the files of a job and submit it; what Ray calls it is kept in the directory of the run.

    Args:
        job: the job, the object that a dry run prints.
        run: the directory of the run, which exists.
        address: the cluster, where the recipe names one.

    Raises:
        RayError: Ray does not take it.
    """
    write_files(job.files)
    (number,) = (word.removeprefix(_NAMED) for word in job.argv if word.startswith(_NAMED))
    before, kept = Job.of(run), Job(number, address or "")
    kept.keep(run)  # before it is there: whatever becomes of this process, it can be asked for and ended
    try:
        call(job.argv)
    except BaseException as error:
        refused = isinstance(error, RayError) and error.printed is not None
        if not kept.is_stopped(refused):
            before.keep(run) if before else run.ray_job.unlink()
        raise
    return kept


def fresh_number() -> str:
    """What Ray can call a job, as it would choose it itself."""
    return f"raysubmit_{token_hex(8)}"


def call(command: Sequence[str]) -> str:
    """What a command of Ray's prints.

    Raises:
        RayError: it is not installed, fails, or does not end.
    """
    return _RAY.call(command)
