"""What was measured, as numbers and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.markdown import markdown_table
from benchmarks.overhead.work import Size

COLUMNS = (
    "model",
    "K",
    "by hand, ms",
    "launched, ms",
    "ratio",
    "smallest",
    "largest",
    "CPU ratio",
    "µs more per micro-step",
    "parameters differ by",
)


@dataclass(frozen=True)
class Cost:
    """What one run of a loop took per update: seconds of the slower rank, and CPU seconds of all ranks."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Case:
    """One model at one K.

    Attributes:
        size: the model.
        accumulation: micro-steps per update, K.
        updates: timed updates of each run.
        by_hand: runs of the loop by hand.
        launched: runs of the launcher's, each right after its neighbour.
        difference: how far the parameters of the two lie apart after the same windows, relative to how far they went.
    """

    size: Size
    accumulation: int
    updates: int
    by_hand: tuple[Cost, ...]
    launched: tuple[Cost, ...]
    difference: float

    @property
    def pairs(self) -> list[tuple[Cost, Cost]]:
        """Neighbouring runs: by hand, launched."""
        return list(zip(self.by_hand, self.launched, strict=True))

    def line(self) -> str:
        """The case in short, for those who wait for the table."""
        return ", ".join(f"{name} {cell}" for name, cell in zip(COLUMNS, self.cells(), strict=True))

    def cells(self) -> tuple[str, ...]:
        """The case as a row of the table."""
        ratios = [ours.wall / theirs.wall for theirs, ours in self.pairs]
        return (
            self.size,
            str(self.accumulation),
            f"{1e3 * median(run.wall for run in self.by_hand):.2f}",
            f"{1e3 * median(run.wall for run in self.launched):.2f}",
            f"{median(ratios):.2f}",
            f"{min(ratios):.2f}",
            f"{max(ratios):.2f}",
            f"{median(ours.cpu / theirs.cpu for theirs, ours in self.pairs):.2f}",
            f"{1e6 * median(ours.wall - theirs.wall for theirs, ours in self.pairs) / self.accumulation:.0f}",
            f"{self.difference:.0e}" if self.difference else "0",
        )


def table(cases: Sequence[Case]) -> str:
    """The cases as a Markdown table, its columns aligned for a terminal too."""
    return markdown_table(COLUMNS, [case.cells() for case in cases])
