"""The rows of metrics.jsonl: read whatever has become of some, and cut back to the update that a run goes on after."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

STEP = "train/global_step"

Say = Callable[[str], None]
Row = dict[str, float | None]


def row_of(line: bytes | str) -> Row | None:
    """The row that a line holds, or None if it is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not all(_is_number(value) for value in row.values() if value is not None):
        return None
    step = row.get(STEP)
    return row if step is not None and math.isfinite(step) else None


def cut_rows(metrics: Path, update: int, say: Say) -> None:
    """Keep the rows up to an update. The kept part stays as it is; a row that was never ended goes too.

    It ends with the last row that is whole, later than those before, and not past the update. Lines before that are
    kept whatever is wrong with them: one flipped bit must not cost the rows behind it.

    Args:
        metrics: the file.
        update: the update.
        say: takes a sentence that the user should read.
    """
    kept, last, damaged = 0, 0.0, 0
    try:
        with metrics.open("r+b") as file:
            end, suspicious = 0, 0
            for line in file:
                end += len(line)
                row = row_of(line) if line.endswith(b"\n") else None
                step = row and row[STEP]
                if step and last < step <= update:
                    kept, last, damaged = end, step, damaged + suspicious
                    suspicious = 0
                else:
                    suspicious += 1
            file.truncate(kept)
            os.fsync(file.fileno())
    except FileNotFoundError:
        pass
    if damaged:
        say(f"warning: damaged lines of {metrics.name} before update {last:,.0f}: {damaged:,}; they stay as they are")
    if last != update:
        say(
            f"warning: the rows of {metrics.name} end with update {last:,.0f}, and the run goes on after update "
            f"{update:,}: those between are missing"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
