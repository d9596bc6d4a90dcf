"""Ranks that wait for one whose disk is slow: in many short collectives, and never in a long one."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError, Event
from typing import Any

import pytest

from launcher.worker.waiting import nothing_to_do, of_all_ranks

MEETINGS = 3  # that the slow rank comes to before it is done
GIVEN_UP = 20.0  # seconds


class Ranks:
    """Two ranks as threads, whose collectives are given up after a time."""

    def __init__(self) -> None:
        self._barrier = Barrier(2)
        self._told: list[Any] = [None, None]
        self.met = 0

    def gather(self, rank: int, value: Any) -> list[Any]:
        self._told[rank] = value
        if self._barrier.wait(GIVEN_UP) == 0:
            self.met += 1
        found = list(self._told)
        self._barrier.wait(GIVEN_UP)
        return found

    def leave(self) -> None:
        self._barrier.abort()


def test_the_others_meet_the_one_that_is_not_done_again_and_again() -> None:
    ranks, slow = Ranks(), Future[str]()
    told: list[bool] = []

    def tell(done: bool) -> None:
        told.append(done)
        if len(told) == MEETINGS:
            slow.set_result("written")

    with ThreadPoolExecutor() as threads:
        other = threads.submit(of_all_ranks, nothing_to_do(), lambda value: ranks.gather(0, value))
        own = threads.submit(of_all_ranks, slow, lambda value: ranks.gather(1, value), tell)
        assert other.result(GIVEN_UP) == own.result(GIVEN_UP) == [None, "written"]
    assert told == [False, False, False, True]
    assert ranks.met == MEETINGS + 1


def test_where_all_are_done_they_meet_once() -> None:
    """What is done in time costs as many collectives as before."""
    ranks = Ranks()
    with ThreadPoolExecutor() as threads:
        both = [
            threads.submit(of_all_ranks, nothing_to_do(), lambda value, rank=rank: ranks.gather(rank, value))
            for rank in (0, 1)
        ]
        assert [one.result(GIVEN_UP) for one in both] == [[None, None]] * 2
    assert ranks.met == 1


def test_work_that_fails_fails_where_it_is_done() -> None:
    ranks, begun = Ranks(), Event()

    def failing() -> None:
        begun.set()
        raise ValueError("no more")

    with ThreadPoolExecutor() as threads:
        other = threads.submit(of_all_ranks, nothing_to_do(), lambda value: ranks.gather(0, value))
        with pytest.raises(ValueError, match="no more"):
            of_all_ranks(threads.submit(failing), lambda value: ranks.gather(1, value))
        ranks.leave()  # as a process that ends does
        with pytest.raises(BrokenBarrierError):
            other.result(GIVEN_UP)
