"""What was found, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.editions.times import Times
from benchmarks.editions.work import Way
from benchmarks.markdown import markdown_table


@dataclass(frozen=True)
class Found:
    """The measurements of all ways.

    Attributes:
        tasks: the numbers of losses, T, upwards.
        peaks: way → T → bytes.
        times: way → T → times of each round, in the order of the rounds.
    """

    tasks: tuple[int, ...]
    peaks: Mapping[Way, Mapping[int, int]]
    times: Mapping[Way, Mapping[int, tuple[Times, ...]]]

    def growth(self, way: Way) -> float:
        """Peak memory of the most losses, as a multiple of that of the fewest."""
        return self.peaks[way][self.tasks[-1]] / self.peaks[way][self.tasks[0]]


def peak_table(found: Found) -> str:
    """Peak memory in MiB, and how much it grows."""
    head = (*_head(found), f"{found.tasks[-1]} / {found.tasks[0]}")
    rows = [
        (
            way.layout,
            way.edition,
            *(f"{found.peaks[way][tasks] / 2**20:.0f}" for tasks in found.tasks),
            f"{found.growth(way):.2f}",
        )
        for way in found.peaks
    ]
    return markdown_table(head, rows, words=2)


def time_table(found: Found, part: Callable[[Times], float]) -> str:
    """Edition 1 in milliseconds, the others as multiples of it in the same layout, each the median over the rounds.

    Args:
        found: the measurements.
        part: which of the times.
    """
    first = {way.layout: way for way in found.times if way.backward == "joint"}
    rows = [
        (way.layout, way.edition, *(_time_cell(found, way, first[way.layout], tasks, part) for tasks in found.tasks))
        for way in found.times
    ]
    return markdown_table(_head(found), rows, words=2)


def _head(found: Found) -> Sequence[str]:
    return ("forward", "edition", *(f"{tasks} task{'s' if tasks > 1 else ''}" for tasks in found.tasks))


def _time_cell(found: Found, way: Way, first: Way, tasks: int, part: Callable[[Times], float]) -> str:
    theirs = [part(times) for times in found.times[first][tasks]]
    if way == first:
        return f"{1e3 * median(theirs):.0f} ms"
    ours = [part(times) for times in found.times[way][tasks]]
    return f"× {median(our / their for our, their in zip(ours, theirs, strict=True)):.2f}"
