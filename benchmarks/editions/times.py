"""How long a window takes in each way, one after the other in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import process_time

from benchmarks.editions.work import Way, Work, ready
from launcher.train.accumulation import LoadedWindow
from launcher.train.job import Job


@dataclass(frozen=True)
class Times:
    """Seconds of CPU time of one window: with one thread, what it takes when nothing else runs.

    Attributes:
        gradient: all forwards and backwards.
        update: these, the reduction over this one rank and the optimizer step.
    """

    gradient: float
    update: float


def measure_times(ways: Sequence[Way], tasks: int, micro: int, rounds: int) -> dict[Way, tuple[Times, ...]]:
    """The times of each way in each round; in a round the ways take turns.

    Args:
        ways: what to compare.
        tasks: losses, T.
        micro: samples per micro-step.
        rounds: how often every way is timed, after a round that is not.
    """
    works = {way: ready(Work(way, tasks, micro)) for way in ways}
    found = [{way: _time(job, window) for way, (job, window) in works.items()} for _ in range(1 + rounds)]
    return {way: tuple(times[way] for times in found[1:]) for way in ways}


def _time(job: Job, window: LoadedWindow) -> Times:
    began = process_time()
    job.accumulation.accumulate(window)
    accumulated = process_time()
    job.engine.reduce()
    job.stepper.step(window.window.update)
    return Times(accumulated - began, process_time() - began)
