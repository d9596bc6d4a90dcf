"""What a rank does alone and may take long, a disk being slow: the others wait for it, and lose nothing but time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from launcher.worker.preparation import Gather

_LOOK = 0.25  # seconds after which ranks that wait are told that they wait still
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Done:
    """What the work of a rank has come to; it travels to the other ranks."""

    value: Any


def of_all_ranks(work: Future[_T], gather: Gather, tell: Callable[[bool], None] = lambda done: None) -> list[_T]:
    """What the work of each rank comes to, on every rank, in the order of the ranks.

    A rank that waits for another in one collective gives up after `parallel.timeout`. So a rank that is not done says
    so again and again. Where all are done at once, nothing is said more often than once.

    Args:
        work: of this rank, in a thread of its own.
        gather: tells all ranks what each has.
        tell: told, whenever this rank has looked, whether its own work is done.
    """
    while True:
        wait([work], _LOOK)
        done = work.done()
        tell(done)
        found = gather(_Done(work.result()) if done else None)
        if all(found):
            return [one.value for one in found]


def nothing_to_do() -> Future[None]:
    """The work of a rank that has none."""
    work: Future[None] = Future()
    work.set_result(None)
    return work
