"""Calls of Ray's own commands for jobs: what they are told is worked out elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import ExitCode, LauncherError, Mistake, RequestError
from launcher.launch.submission import Submission
from launcher.rundir.layout import RunDirectory, write_atomically

_ID = re.compile(r"\braysubmit_\w+")
# Ray tells it in sentences; what runs still or waits, by its own word.
_TOLD = re.compile(r"Job '[^']+' (succeeded|was stopped|failed)\b|Status for job '[^']+': (?:JobStatus\.)?(\w+)")
_WORDS = {"succeeded": "SUCCEEDED", "was stopped": "STOPPED", "failed": "FAILED"}
_LOOK = 1.0  # seconds between two questions, each of which starts a program
_ANSWER = 120.0  # seconds that a command may take: it imports much


class RayError(LauncherError):
    """Ray is not there, or does not do what it was asked for."""

    exit_code = ExitCode.REQUEST


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
        with _started(command) as process:
            for line in process.stdout or ():
                yield line.rstrip("\n")

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
    for path, text in job.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text, lasting=True)
    answer = call(job.argv)
    found = _ID.search(answer)
    if found is None:
        raise RayError(f"ray job submit has answered {answer.strip()!r}, which names no job.")
    kept = Job(found[0], address or "")
    write_atomically(run.ray_job, f"{kept.number} {kept.address}".strip() + "\n", lasting=True)
    return kept


def call(command: Sequence[str]) -> str:
    """What a command of Ray's prints.

    Raises:
        RayError: it is not installed, fails, or does not end.
    """
    with _started(command, stderr=subprocess.PIPE) as process:
        try:
            said, complaint = process.communicate(timeout=_ANSWER)
        except subprocess.TimeoutExpired:
            process.kill()
            raise RayError(f"ray job has not answered for {_ANSWER:g} seconds. Is the cluster there?") from None
    if process.returncode:
        lines = [line.strip() for line in complaint.splitlines() if line.strip()]
        raise RayError(f"ray job refuses: {lines[-1].rstrip('.') if lines else f'exit code {process.returncode}'}.")
    return said


def _started(command: Sequence[str], stderr: int | None = None) -> subprocess.Popen[str]:
    """Ray's command, of this installation where it has one."""
    beside = Path(sys.executable).with_name(command[0])
    program = str(beside) if beside.exists() else command[0]
    with suppress(FileNotFoundError):
        return subprocess.Popen(
            [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    raise RayError("Ray is not installed here. Install it with pip install 'launcher[ray]'.")
