"""Calls of Slurm's own commands: what they are told is worked out elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from launcher.errors import ExitCode, PerhapsTakenError, quoted
from launcher.launch.slurm_array import task_of
from launcher.launch.submission import Submission
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.runners.follow import LineFollower
from launcher.runners.launch_files import write_files
from launcher.runners.program import Program, ProgramError
from launcher.runners.runs_option import runs_option

_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT", "LAUNCH_FAILED", "RECONFIG_FAIL",
}  # fmt: skip
_NUMBER = re.compile(r"[0-9]+(_[0-9]+)?")  # of a job, or of an array and one of its tasks
_TAKEN = re.compile(r"[0-9]+(;[^\s;]+)?")  # the answer of sbatch
_SEE = "It may have been taken all the same: see squeue -u $USER."
_AGAIN = 5.0  # seconds after which a job that runs on is told again to end
_GIVE_UP = 120.0  # seconds after which a job that was ended, or an answer, is waited for no more
_LOOK = 0.5  # seconds between two questions, or two looks at what a job prints
_ASK = 5.0  # seconds between two questions while what a job prints is followed
_ANSWER = 60.0  # seconds that a command may take


class SlurmError(ProgramError):
    """Slurm is not there, or does not do what it was asked for."""


_SLURM = Program(
    SlurmError,
    "Slurm is not installed here: there is no {name}. Use a machine of the cluster.",
    words=1,
    patience=_ANSWER,
    silence="Is Slurm's controller there?",
)


class InterruptedSlurmError(SlurmError):
    """Somebody did not want to wait for Slurm's answer."""

    exit_code = ExitCode.INTERRUPTED


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job.

    Attributes:
        state: its state, in Slurm's words (PENDING, RUNNING, COMPLETED ...).
        details: where it runs and how long, or why it waits; empty where Slurm does not say.
    """

    state: str
    details: str = ""

    @property
    def active(self) -> bool:
        """Whether it runs, or will."""
        return self.state not in _ENDED

    def __str__(self) -> str:
        return f"{self.state}, {self.details}" if self.details else self.state


@dataclass(frozen=True)
class Job:
    """A job that was submitted.

    Attributes:
        number: its number; of a task of an array, that of the array and its own, as Slurm writes it.
        cluster: where, if Slurm has named a cluster.
    """

    number: str
    cluster: str = ""

    engine = "Slurm"

    @staticmethod
    def of(run: RunDirectory) -> Job | None:
        """The last job of a run; None where it was never submitted."""
        try:
            number, _, cluster = run.slurm_job.read_text(encoding="utf-8").strip().partition(";")
        except (OSError, ValueError):
            return None
        return Job(number, cluster) if _NUMBER.fullmatch(number) else None

    def state(self) -> JobState | None:
        """What Slurm says of it now; None where it has forgotten it.

        Raises:
            SlurmError: Slurm does not answer.
        """
        try:
            said = self._call("squeue", "--noheader", "--states=all", f"--jobs={self.number}", "--format=%T|%M|%l|%R")
        except SlurmError as error:
            if "nvalid job id" not in str(error):
                raise
            said = ""
        told = [line for line in said.splitlines() if "|" in line]  # clusters are named in lines of their own
        return _SLURM.understood(["squeue"], told[0], _state_in) if told else self._remembered()

    def tell(self, signal_name: str) -> None:
        """Send a signal to what it runs, and not to its script.

        Raises:
            SlurmError: Slurm does not answer.
        """
        self._call("scancel", f"--signal={signal_name}", self.number)

    def keep_from_queue(self) -> None:
        """Let it not be queued again when it ends.

        Raises:
            SlurmError: Slurm does not answer.
        """
        self._call("scontrol", "update", f"JobId={self.number}", "Requeue=0")

    def cancel(self) -> None:
        """End it, whether it runs or waits.

        Raises:
            SlurmError: Slurm does not answer.
        """
        self._call("scancel", self.number)

    def output(self, run: RunDirectory, follow: bool) -> Iterator[str]:
        """The lines that the jobs of a run have printed; with `follow` until this one has ended.

        Raises:
            SlurmError: it has printed nothing yet, or Slurm does not answer.
        """
        if not follow and not run.slurm_log.exists():
            raise SlurmError(
                f"Job {self.number} has printed nothing yet. Ask how it stands: "
                f"launcher status {self.number}{runs_option(run.path.parent)}"
            )
        lines = LineFollower(run.slurm_log)
        asked, answered, active = float("-inf"), None, follow
        while True:
            if active and time.monotonic() - asked > _ASK:
                asked = time.monotonic()
                try:
                    state = self.state()
                except SlurmError:  # a busy controller now and then lets a question fall
                    if answered is None or time.monotonic() - answered > _GIVE_UP:
                        raise
                else:
                    active, answered = state is not None and state.active, time.monotonic()
            yield from lines.new()
            if not active:
                return
            time.sleep(_LOOK)

    def end(self, *, now: bool, say: Callable[[str], None]) -> JobState | None:
        """As `ended`."""
        return ended(self, now=now, say=say)

    def _remembered(self) -> JobState | None:
        """What the accounting knows, where there is one."""
        with suppress(SlurmError):
            said = self._call(
                "sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={self.number}"
            )
            if said.strip():
                return JobState(said.split()[0])  # "CANCELLED by 0"
        return None

    def _call(self, command: str, *arguments: str) -> str:
        cluster = [f"--clusters={self.cluster}"] if self.cluster else []
        return call([command, *cluster, *arguments])


def submit(job: Submission, run: RunDirectory) -> Job:
    """Write the files of a job and submit it; its number is kept in the directory of the run.

    Args:
        job: the job, the object that a dry run prints.
        run: the directory of the run, which exists.

    Raises:
        SlurmError: Slurm does not take it.
        PerhapsTakenError: whether it takes it is not known.
    """
    return _kept(run, _sent(job))


def submit_array(job: Submission, runs: Sequence[RunDirectory]) -> list[Job]:
    """Write the files of an array and submit it; each run keeps the number of its task.

    Args:
        job: the array, the object that a dry run prints.
        runs: the directories of its runs, in the order of its tasks.

    Raises:
        SlurmError: Slurm does not take it.
        PerhapsTakenError: whether it takes it is not known.
    """
    answer = _sent(job)
    return [_kept(run, task_of(answer, number)) for number, run in enumerate(runs)]


def _state_in(line: str) -> JobState:
    state, ran, limit, where = line.split("|", 3)
    if state == "RUNNING":
        return JobState(state, f"{ran} of {limit} on {where}")
    return JobState(state, where.strip("()") if state == "PENDING" and where != "(None)" else "")


def _sent(job: Submission) -> str:
    """Write the files of a job and submit it; its number, and its cluster where Slurm has named one."""
    write_files(job.files)
    try:
        answer = call(job.argv)
    except SlurmError as error:
        if error.printed is None:  # it has not answered in time
            raise PerhapsTakenError(f"{error} {_SEE}") from None
        raise
    except KeyboardInterrupt:
        raise InterruptedSlurmError(f"Interrupted, before sbatch has answered. {_SEE}") from None
    lines = [line.strip() for line in answer.splitlines()]
    numbers = [line for line in lines if _TAKEN.fullmatch(line)]  # a site may have sbatch say more
    if not numbers:
        raise PerhapsTakenError(f"sbatch has answered {quoted(answer.strip())}, which is no number of a job. {_SEE}")
    return numbers[-1]


def _kept(run: RunDirectory, answer: str) -> Job:
    """A job that Slurm has taken, its number kept in the directory of its run."""
    try:
        write_atomically(run.slurm_job, f"{answer}\n", lasting=True)
    except OSError as error:
        said = f"Slurm has taken job {answer}, and its number could not be written to {run.slurm_job}"
        raise PerhapsTakenError(f"{said}: {error.strerror}. {_SEE}") from None
    number, _, cluster = answer.partition(";")
    return Job(number, cluster)


def ended(job: Job, *, now: bool, say: Callable[[str], None]) -> JobState | None:
    """End a job and wait for that; what Slurm says of it then.

    A job that runs is told again and again, for it may just be about to begin: its launchers heed the first time.

    Args:
        job: the job, which runs or waits.
        now: do not wait for an update and a checkpoint.
        say: takes a sentence that the user should read.

    Raises:
        SlurmError: Slurm does not answer.
    """
    with suppress(SlurmError):  # it has ended just now, or may not be changed; cancelling says so
        job.keep_from_queue()
    told = cancelled = float("-inf")
    since: float | None = None  # when it was to end at once
    while (state := job.state()) is not None and state.active:
        at = time.monotonic()
        if state.state == "RUNNING" and not now:
            since = None
            if at - told > _AGAIN:
                if told < 0:
                    say(f"job {job.number} ends at its next update, with a checkpoint; --now does not wait for that")
                told = at
                with suppress(SlurmError):  # nothing of it runs just now
                    job.tell("TERM")
        else:  # it waits, or begins, or ends, or is in a state that is not known here
            since = since or at
            if at - since > _GIVE_UP:
                raise SlurmError(f"Job {job.number} was told to end, and is still {state} after {_GIVE_UP:g} seconds.")
            if state.state != "COMPLETING" and at - cancelled > _AGAIN:
                cancelled = at
                job.cancel()
        time.sleep(_LOOK)
    return state


def call(command: Sequence[str]) -> str:
    """What a command of Slurm's prints.

    Raises:
        SlurmError: it is not installed, fails, or does not end.
    """
    return _SLURM.call(command)
