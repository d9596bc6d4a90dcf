"""What a place to run jobs offers."""

from __future__ import annotations

from typing import Protocol

from launcher.launch.spec import LaunchSpec
from launcher.rundir.layout import RunDirectory


class RunHandle(Protocol):
    """A run that was started."""

    @property
    def agent(self) -> int:
        """The process that started its ranks."""
        ...

    def wait(self, seconds: float) -> int | None:
        """Wait for the run to end, but not longer than so many seconds; its exit code, or None while it runs."""
        ...

    def stop(self, signal_number: int) -> None:
        """Pass a signal on to the run, which ends after the update that it is in."""
        ...

    def kill(self) -> None:
        """End the run now."""
        ...

    def close(self) -> None:
        """Leave nothing of the run behind; to be called in every case."""
        ...


class Runner(Protocol):
    """Somewhere to run a launch: this machine, or an engine that takes jobs."""

    def start(self, spec: LaunchSpec, run: RunDirectory) -> RunHandle:
        """Write the files of a launch and start it.

        Args:
            spec: the launch, the object that a dry run prints.
            run: the directory of the run, which exists.
        """
        ...
