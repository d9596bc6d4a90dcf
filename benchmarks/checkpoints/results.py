"""What was found, as a table and as RESULTS.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from statistics import median
from textwrap import dedent

from benchmarks.checkpoints.measure import Round, Size
from benchmarks.machine import this_machine
from benchmarks.markdown import markdown_table

_WAYS: dict[str, Callable[[Round], float]] = {
    "torch.save": lambda found: found.saved,
    "torch.save, until it is on the disk": lambda found: found.saved_on_disk,
    "launcher": lambda found: found.stall,
    "launcher, background: stall": lambda found: found.background_stall,
    "launcher, background: until committed": lambda found: found.background,
}


def table(sizes: Sequence[Size]) -> str:
    """Medians of all ways, and what they are of `torch.save` of the same round."""
    head = ("model", "way", "ms", "/ torch.save", "smallest", "largest")
    rows = [_row(size, way, seconds) for size in sizes for way, seconds in _WAYS.items()]
    return markdown_table(head, rows, words=2)


def _row(size: Size, way: str, seconds: Callable[[Round], float]) -> Sequence[str]:
    ratios = [seconds(found) / found.saved for found in size.rounds]
    return (
        f"{size.millions} M ({size.state_bytes / 2**20:,.0f} MiB)",
        way,
        f"{1e3 * median(map(seconds, size.rounds)):,.0f}",
        *(f"{ratio:.2f}" for ratio in (median(ratios), min(ratios), max(ratios))),
    )


def results_page(sizes: Sequence[Size], rounds: int, command: str) -> str:
    """The page.

    Args:
        sizes: what was measured.
        rounds: how often.
        command: how to measure it again.
    """
    head = f"""\
        # What a checkpoint costs

        `{command}`, on {this_machine()}, {date.today():%d %B %Y}.

        How long training stands still for a checkpoint of a model and its AdamW, beside `torch.save` of the same two
        states: medians of {rounds} rounds in which the ways take turns, and their ratio to `torch.save` of the same
        round. `torch.save` alone leaves the file in the memory of the system, over the one before; a crash may leave
        neither. The launcher's is on the disk with the checksum of every file before it counts, and the last ones stay.
        In the background the training stands still for a copy of the state; the memory for it is the second cost.

        """
    return dedent(head) + table(sizes) + "\n"
