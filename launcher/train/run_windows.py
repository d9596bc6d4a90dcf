"""The windows of a run with their data, which can be dealt out again from any of them on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from launcher.plan.planner import Plan
from launcher.train.accumulation import LoadedWindow
from launcher.train.loader import WindowLoader


class RunWindows:
    """Iterates over this rank's micro-batches, window by window, by the plan that holds at the time.

    Args:
        load: loads the windows of a plan from an update (from 0) on.
        plan: the plan.
        first_update: the update to begin with, from 0.
    """

    def __init__(self, load: Callable[[Plan, int], WindowLoader], plan: Plan, first_update: int) -> None:
        self._load = load
        self._begin(plan, first_update)

    def _begin(self, plan: Plan, update: int) -> None:
        self.loader = self._load(plan, update)
        self._loaded: Iterator[LoadedWindow] | None = None

    def __iter__(self) -> Iterator[LoadedWindow]:
        return self

    def __next__(self) -> LoadedWindow:
        if self._loaded is None:
            self._loaded = iter(self.loader)
        return next(self._loaded)

    def go_on(self, plan: Plan, update: int) -> None:
        """Go on with the windows of another plan; every rank must do so at the same update.

        What was loaded ahead is let go of, with the processes that did so.

        Args:
            plan: the plan.
            update: the update whose window is the next, from 0.
        """
        self._begin(plan, update)
