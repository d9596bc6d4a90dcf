"""What was measured, as numbers and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.markdown import markdown_table
from benchmarks.overhead.work import Items, Size

COLUMNS = (
    "model",
    "items",
    "K",
    "by hand, ms",
    "launched, ms",
    "ratio",
    "smallest",
    "largest",
    "CPU ratio",
    "µs more per micro-step",
    "µs waited for counts",
    "parameters differ by",
)


@dataclass(frozen=True)
class Cost:
    """What one run of a loop took per update.

    Attributes:
        wall: seconds of the slower rank.
        cpu: CPU seconds of all ranks.
        waited: of this rank's seconds, spent waiting for the count of a window.
    """

    wall: float
    cpu: float
    waited: float


@dataclass(frozen=True)
class Case:
    """One model at one K.

    Attributes:
        size: the model.
        items: where the items of a window are known from.
        accumulation: micro-steps per update, K.
        updates: timed updates of each run.
        by_hand: runs of the loop by hand.
        launched: runs of the launcher's, each right after its neighbour.
        difference: how far the parameters of the two lie apart after the same windows, relative to how far they went.
    """

    size: Size
    items: Items
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
            self.items,
            str(self.accumulation),
            f"{1e3 * median(run.wall for run in self.by_hand):.2f}",
            f"{1e3 * median(run.wall for run in self.launched):.2f}",
            f"{median(ratios):.2f}",
            f"{min(ratios):.2f}",
            f"{max(ratios):.2f}",
            f"{median(ours.cpu / theirs.cpu for theirs, ours in self.pairs):.2f}",
            f"{1e6 * median(ours.wall - theirs.wall for theirs, ours in self.pairs) / self.accumulation:.0f}",
            f"{1e6 * median(run.waited for run in self.launched):.0f}",
            f"{self.difference:.0e}" if self.difference else "0",
        )


def table(cases: Sequence[Case]) -> str:
    """The cases as a Markdown table, its columns aligned for a terminal too."""
    return markdown_table(COLUMNS, [case.cells() for case in cases])
