"""Which launch of a run this is: each one that takes it over has the next number, and only the last may commit."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import suppress

from launcher.errors import ExitCode, LauncherError
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.rundir.manifest import MANIFEST, BadCheckpointError, Manifest

VARIABLE = "LAUNCHER_GENERATION"  # in which a launch tells its workers its number
AFTER = "LAUNCHER_AFTER"  # and the update that it goes on after, 0 from the start
_COPIES = 3  # of the number in its file: whichever bit of it flips, two are left that agree


class StaleWriterError(LauncherError):
    """A later launch has taken the run over: what this one would write is no longer wanted."""

    exit_code = ExitCode.RUN_HELD


class DamagedGenerationError(OSError):
    """The number of the last launch is not what was written."""


class Generation:
    """The number of the launch that this process belongs to.

    Attributes:
        own: the number.
        after: the update that the launch goes on after, 0 from the start; None where its workers are to find out.

    Args:
        run: the directory of the run.
        own: the number; by default that of the last launch.
        after: the update.
    """

    def __init__(self, run: RunDirectory, own: int | None = None, after: int | None = None) -> None:
        self._run = run
        self.after = after
        self.own = read_generation(run) if own is None else own

    @staticmethod
    def from_environ(run: RunDirectory, environ: Mapping[str, str]) -> Generation:
        """What the launch tells its workers: one that was slow to begin could read the number of a later launch.

        Where nobody took the run over it is the number at the time of the call.
        """
        own, after = (None if told is None else int(told) for told in map(environ.get, (VARIABLE, AFTER)))
        return Generation(run, own, after)

    def check(self) -> None:
        """Make sure that this is still the last launch.

        Raises:
            StaleWriterError: it is not.
            OSError: that cannot be told now.
        """
        last = read_generation(self._run)
        if last > self.own:
            raise StaleWriterError(
                f"{self._run.path} was taken over by launch {last}: launch {self.own} writes no more to it."
            )


def read_generation(run: RunDirectory) -> int:
    """The number of the last launch; 0 where none has left one.

    Raises:
        OSError: there is a number, and it cannot be read.
        DamagedGenerationError: it is not what was written.
    """
    try:
        written = run.generation.read_bytes().split()
    except FileNotFoundError:
        return 0
    numbers = [int(number) for number in written if number.isdigit()]
    # One copy is all that older launches have left.
    if not numbers or (len(set(numbers)) > 1 and len(set(numbers)) == len(numbers)):
        raise DamagedGenerationError(errno.EIO, "the number of the launch is damaged", str(run.generation))
    return max(numbers, key=numbers.count)


def take_over(run: RunDirectory) -> int:
    """Begin a launch, which holds the run's lock; its number.

    Where the last number is gone or damaged, it is more than that of any launch that has left a checkpoint or a log:
    none of those may take itself for the last one again.

    Raises:
        OSError: the last number cannot be read, or the new one not be kept.
    """
    try:
        last = read_generation(run)
    except DamagedGenerationError:
        last = 0
    own = (last or _last_seen(run)) + 1
    write_atomically(run.generation, f"{own}\n" * _COPIES, lasting=True)
    return own


def _last_seen(run: RunDirectory) -> int:
    """The largest number in what launches have left; 0 where there is nothing."""
    numbers = [0]
    for manifest in run.checkpoints.glob(f"*/{MANIFEST}"):
        with suppress(OSError, BadCheckpointError):
            numbers.append(Manifest.from_text(manifest.read_bytes()).generation)
    for left in [*run.checkpoints.glob(".unfinished_*"), *run.logs.glob("*.log.*")]:
        number = left.suffix.removeprefix(".")
        numbers.append(int(number) if number.isdecimal() else 0)
    return max(numbers)
