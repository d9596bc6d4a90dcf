"""Tables that read well in Markdown and on a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]], words: int = 0) -> str:
    """A table whose columns are aligned.

    Args:
        head: the headings.
        body: the rows.
        words: how many columns, from the left, are words; the others are numbers, and stand to the right.
    """
    rows = [head, *body]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(cells)} |"

    rules = (
        f"{'-' * (width + 2)}" if column < words else f"{'-' * (width + 1)}:" for column, width in enumerate(widths)
    )
    return "\n".join([line(head), f"|{'|'.join(rules)}|", *map(line, body)])
