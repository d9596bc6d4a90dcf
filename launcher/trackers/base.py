"""Where metrics go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol


class Tracker(Protocol):
    """Takes the metrics of a run, one row per update."""

    def log(self, row: Mapping[str, float]) -> None:
        """Take the metrics of one update; `train/global_step` says which."""
        ...

    def finish(self, succeeded: bool) -> None:
        """The run has ended; nothing more will be logged."""
        ...


class Composite:
    """Several trackers as one. They fail apart: one that cannot finish does not keep the others from it.

    Args:
        trackers: the trackers, the most important first.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def log(self, row: Mapping[str, float]) -> None:
        """Hand a row to each."""
        for tracker in self._trackers:
            tracker.log(row)

    def finish(self, succeeded: bool) -> None:
        """Finish all of them, then raise what the first that failed raised."""
        with ExitStack() as stack:
            for tracker in reversed(self._trackers):
                stack.callback(tracker.finish, succeeded)
