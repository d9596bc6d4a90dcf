"""What was measured, as numbers and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.markdown import markdown_table

COLUMNS = (
    "link",
    "K",
    "without no_sync, s",
    "launched, s",
    "computing, s",
    "bytes / bandwidth, s",
    "sum, s",
    "launched / sum",
    "smallest",
    "largest",
    "max, s",
    "launched / max",
)
# A frame of Ethernet carries so much of what is sent, and the rate of a link counts all of it.
FRAME, CARRIED = 1514, 1448
RATES = {"1gbit": 1e9, "100mbit": 1e8}  # bit/s, by what tc calls them
NAMES = {"1gbit": "1 Gbit/s", "100mbit": "100 Mbit/s"}


@dataclass(frozen=True)
class Round:
    """One run of each loop, one after the other; seconds per update, of the slower rank.

    Attributes:
        every: gradients reduced after each micro-step.
        launched: the launcher's loop.
        computing: without a network.
    """

    every: float
    launched: float
    computing: float


@dataclass(frozen=True)
class Case:
    """One link at one K.

    Attributes:
        link: its rate, as `tc` calls it.
        accumulation: micro-steps per update, K.
        size: bytes that an update of the launcher's loop reduces.
        rounds: what was measured.
    """

    link: str
    accumulation: int
    size: int
    rounds: tuple[Round, ...]

    @property
    def wire(self) -> float:
        """Seconds that the bytes take: between two ranks, each sends as many as there are gradients."""
        return 8 * self.size * FRAME / CARRIED / RATES[self.link]

    @property
    def computing(self) -> float:
        """Seconds of computing per update."""
        return median(one.computing for one in self.rounds)

    @property
    def ratios(self) -> list[float]:
        """The launcher's time over computing and network, one after the other, in each round."""
        return [one.launched / (one.computing + self.wire) for one in self.rounds]

    def line(self) -> str:
        """The case in short, for those who wait for the table."""
        return ", ".join(f"{name} {cell}" for name, cell in zip(COLUMNS, self.cells(), strict=True))

    def cells(self) -> tuple[str, ...]:
        """The case as a row of the table."""
        best = [max(one.computing, self.wire) for one in self.rounds]
        return (
            NAMES[self.link],
            str(self.accumulation),
            f"{median(one.every for one in self.rounds):.3f}",
            f"{median(one.launched for one in self.rounds):.3f}",
            f"{self.computing:.3f}",
            f"{self.wire:.3f}",
            f"{self.computing + self.wire:.3f}",
            f"{median(self.ratios):.2f}",
            f"{min(self.ratios):.2f}",
            f"{max(self.ratios):.2f}",
            f"{median(best):.3f}",
            f"{median(one.launched / least for one, least in zip(self.rounds, best, strict=True)):.2f}",
        )


@dataclass(frozen=True)
class Link:
    """What was measured on a link.

    Attributes:
        cases: one for each K.
        alone: seconds of one all-reduce of the gradients, with nothing else to do.
    """

    cases: tuple[Case, ...]
    alone: float

    @property
    def hidden(self) -> float:
        """The K whose computing takes as long as the network does: what accumulation costs from there on is small.

        A micro-step is what two K differ by; steps of the optimizer are in both.
        """
        first, last = self.cases[0], self.cases[-1]
        micro_step = (last.computing - first.computing) / (last.accumulation - first.accumulation)
        return self.alone / micro_step


def table(links: Sequence[Link]) -> str:
    """The cases as a Markdown table, its columns aligned for a terminal too."""
    return markdown_table(COLUMNS, [case.cells() for link in links for case in link.cases], words=1)
