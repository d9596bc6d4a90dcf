"""A tracker that may be slow, in a thread of its own: the training never waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Full, Queue
from threading import Thread

from launcher.trackers.base import Tracker

MOST_ROWS = 10_000


@dataclass(frozen=True)
class _End:
    """Stands behind the last row."""

    succeeded: bool


class InBackground:
    """Hands each row to a tracker in the order in which it came; `log` returns at once.

    A tracker that fails, or that so many rows wait for, is given up: it gets no further row.

    Args:
        tracker: the tracker, which is used in the thread only.
        patience: seconds that it gets for its last rows and its end.
        give_up: told once why the tracker is given up; it may be asked from any thread.
        most: rows that may wait.
    """

    def __init__(
        self, tracker: Tracker, patience: float, give_up: Callable[[BaseException], None], most: int = MOST_ROWS
    ) -> None:
        self._tracker = tracker
        self._patience = patience
        self._tell = give_up
        self._given_up = False
        self._rows: Queue[Mapping[str, float] | _End] = Queue(most)
        self._thread = Thread(target=self._go, name="tracker", daemon=True)  # one that is stuck holds up no exit
        self._thread.start()

    def log(self, row: Mapping[str, float]) -> None:
        """Take a row."""
        if self._given_up:
            return
        try:
            self._rows.put_nowait(row)
        except Full:
            self._give_up(TimeoutError(f"it has not taken the last {self._rows.maxsize:,} rows"))

    def finish(self, succeeded: bool) -> None:
        """Let the tracker take what waits and end, if it does within its time."""
        if not self._given_up:
            try:
                self._rows.put(_End(succeeded), timeout=self._patience)
            except Full:
                self._late()
                return
        self._thread.join(self._patience)
        if self._thread.is_alive() and not self._given_up:
            self._late()

    def _late(self) -> None:
        self._give_up(TimeoutError(f"it did not end within {self._patience:g} s"))
        self._thread.join(self._patience)  # what it waited for may be gone now

    def _go(self) -> None:
        try:
            while not self._given_up:
                match self._rows.get():
                    case _End(succeeded):
                        self._tracker.finish(succeeded)
                        return
                    case row:
                        self._tracker.log(row)
        except (Exception, SystemExit) as error:  # a thread that W&B ends by the latter would end without a word
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        if not self._given_up:
            self._given_up = True
            self._tell(error)
