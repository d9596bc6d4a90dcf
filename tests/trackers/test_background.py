"""A tracker in a thread: what it does never holds up the training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from threading import Event

import pytest

from launcher.trackers.background import InBackground

SOON = 5.0


class Blocking:
    """Takes rows once it is let go; fails at one of them."""

    def __init__(self, fails_at: float | None = None, by: BaseException | None = None) -> None:
        self._by = by or ValueError("no more")
        self.let_go = Event()
        self.taken: list[float] = []
        self.ended: list[bool] = []
        self._fails_at = fails_at

    def log(self, row: Mapping[str, float]) -> None:
        self.let_go.wait()
        if row["step"] == self._fails_at:
            raise self._by
        self.taken.append(row["step"])

    def finish(self, succeeded: bool) -> None:
        self.let_go.wait()
        self.ended.append(succeeded)


@pytest.fixture
def make() -> Iterator[Callable[..., Blocking]]:
    """Trackers, none of which is left blocked."""
    made = []

    def one(fails_at: float | None = None, by: BaseException | None = None) -> Blocking:
        made.append(Blocking(fails_at, by))
        return made[-1]

    yield one
    for tracker in made:
        tracker.let_go.set()


def test_every_row_comes_once_and_in_order(make: Callable[..., Blocking]) -> None:
    tracker, told = make(), list[BaseException]()
    background = InBackground(tracker, SOON, told.append)
    for step in range(100):
        background.log({"step": step})
    assert tracker.taken == []
    tracker.let_go.set()
    background.finish(True)
    assert (tracker.taken, tracker.ended, told) == (list(range(100)), [True], [])


def test_one_that_takes_no_rows_is_given_up_once(make: Callable[..., Blocking]) -> None:
    tracker, told = make(), list[BaseException]()
    background = InBackground(tracker, SOON, told.append, most=10)
    began = time.monotonic()
    for step in range(100):
        background.log({"step": step})
    assert time.monotonic() - began < SOON
    assert [str(error) for error in told] == ["it has not taken the last 10 rows"]
    tracker.let_go.set()
    background.finish(True)
    assert (len(told), tracker.ended) == (1, [])


def test_one_that_does_not_end_is_given_up_in_time(make: Callable[..., Blocking]) -> None:
    tracker, told = make(), list[BaseException]()
    background = InBackground(tracker, 0.2, told.append)
    background.log({"step": 1})
    began = time.monotonic()
    background.finish(True)
    assert time.monotonic() - began < SOON
    assert [str(error) for error in told] == ["it did not end within 0.2 s"]


@pytest.mark.parametrize("error", [ValueError("no more"), SystemExit("no more")], ids=type)
def test_a_failure_is_told_once(make: Callable[..., Blocking], error: BaseException) -> None:
    tracker, told = make(fails_at=2, by=error), list[BaseException]()
    tracker.let_go.set()
    background = InBackground(tracker, SOON, told.append)
    for step in range(5):
        background.log({"step": step})
    background.finish(True)
    assert [str(error) for error in told] == ["no more"]
    assert (tracker.taken, tracker.ended) == ([0, 1], [])
