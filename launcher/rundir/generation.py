"""Which launch of a run this is: each one that takes it over has the next number, and only the last may commit."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.errors import ExitCode, LauncherError
from launcher.rundir.layout import RunDirectory, write_atomically

VARIABLE = "LAUNCHER_GENERATION"  # in which a launch tells its workers its number
AFTER = "LAUNCHER_AFTER"  # and the update that it goes on after, 0 from the start


class StaleWriterError(LauncherError):
    """A later launch has taken the run over: what this one would write is no longer wanted."""

    exit_code = ExitCode.RUN_HELD


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

        Where nobody took the run over, as for a dry run that was pasted, it is the number at the time of the call.
        """
        own, after = (None if told is None else int(told) for told in map(environ.get, (VARIABLE, AFTER)))
        return Generation(run, own, after)

    def check(self) -> None:
        """Make sure that this is still the last launch.

        Raises:
            StaleWriterError: it is not.
        """
        last = read_generation(self._run)
        if last != self.own:
            raise StaleWriterError(
                f"{self._run.path} was taken over by launch {last}: launch {self.own} writes no more to it."
            )


def read_generation(run: RunDirectory) -> int:
    """The number of the last launch; 0 where none has left one."""
    try:
        return int(run.generation.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def take_over(run: RunDirectory) -> int:
    """Begin a launch, which holds the run's lock; its number."""
    own = read_generation(run) + 1
    write_atomically(run.generation, f"{own}\n", lasting=True)
    return own
