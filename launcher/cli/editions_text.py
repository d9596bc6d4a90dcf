"""The editions of the backward as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from launcher.plan.editions import EditionRow

_LAYOUTS = {"own forwards": "each its own", "trunk": "one trunk"}
_REDUCTIONS = {"overlapped": "overlapped", "after": "afterwards", "none": "–"}


def editions_table(rows: Sequence[EditionRow]) -> Table:
    """What each edition holds and does in a micro-step, the chosen one marked."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for header in ("  edition", "forward", "graphs at once"):
        table.add_column(header)
    table.add_column("trunk backwards", justify="right")
    table.add_column("reduction")
    for row in rows:
        table.add_row(
            f"{'▸' if row.chosen else ' '} {row.backward}",
            _LAYOUTS[row.layout],
            _graphs(row),
            str(row.trunk_backwards),
            _REDUCTIONS[row.reduction],
            style="bold" if row.chosen else None,
        )
    return table


def _graphs(row: EditionRow) -> str:
    if row.layout == "own forwards":
        return str(row.trunk_graphs)
    return f"trunk + {row.head_graphs} head{'' if row.head_graphs == 1 else 's'}"
