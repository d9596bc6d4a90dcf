"""The rows of metrics.jsonl: read whatever has become of some, and cut back to the update that a run goes on after."""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

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


def logged_metrics(metrics: Path) -> frozenset[str]:
    """The names of all metrics that a file holds; none where it is not there."""
    try:
        with metrics.open("rb") as file:
            return frozenset(name for line in file for name in row_of(line) or ())
    except FileNotFoundError:
        return frozenset()


def cut_rows(metrics: Path, update: int, say: Say) -> None:
    """Keep the rows up to an update. The kept part stays as it is; a row that was never ended goes too.

    It ends with the last row that is sound and not past the update. Sound are the most rows whose updates rise from
    one to the next: one flipped bit in the number of an update must cost no row beside it. Lines between them are kept
    whatever is wrong with them.

    Args:
        metrics: the file.
        update: the update.
        say: takes a sentence that the user should read.
    """
    lines: list[_Line] = []
    try:
        with metrics.open("r+b") as file:
            end = 0
            for number, line in enumerate(file, 1):
                end += len(line)
                row = row_of(line) if line.endswith(b"\n") else None
                step = row and row[STEP]
                if step and 0 < step <= update:
                    lines.append(_Line(step, number, end))
            sound = _rising(lines)
            file.truncate(sound[-1].end if sound else 0)
            os.fsync(file.fileno())
    except FileNotFoundError:
        sound = []
    last, number = (sound[-1].step, sound[-1].number) if sound else (0, 0)
    damaged, missing = number - len(sound), int(last) - len(sound)
    if damaged:
        say(f"warning: damaged lines of {metrics.name} before update {last:,.0f}: {damaged:,}; they stay as they are")
    if missing > damaged:
        say(f"warning: rows that {metrics.name} lacks before update {last:,.0f}: {missing:,}")
    if last != update:
        say(
            f"warning: the rows of {metrics.name} end with update {last:,.0f}, and the run goes on after update "
            f"{update:,}: those between are missing"
        )


class _Line(NamedTuple):
    """A row in its file: its update, the number of its line, and where that ends."""

    step: float
    number: int
    end: int


def _rising(lines: Sequence[_Line]) -> list[_Line]:
    """The most lines whose steps rise, in their order; of lines with one step the first that follows the one before.

    The longest rising subsequence: of those found so far, the one of each length that ends with the lowest step.
    """
    ends: list[float] = []  # by length less one: the step that it ends with, and which line that is
    places: list[int] = []
    before: list[int] = []  # by line: the one before it
    for place, line in enumerate(lines):
        length = bisect_left(ends, line.step)
        before.append(places[length - 1] if length else -1)
        if length == len(ends):
            ends.append(line.step)
            places.append(place)
        elif line.step < ends[length] or _jumps(lines, places[length], before):
            ends[length], places[length] = line.step, place
    found: list[_Line] = []
    place = places[-1] if places else -1
    while place >= 0:
        found.append(lines[place])
        place = before[place]
    return found[::-1]


def _jumps(lines: Sequence[_Line], place: int, before: Sequence[int]) -> bool:
    """Whether a step is not the one that follows."""
    return lines[place].step != (lines[before[place]].step if before[place] >= 0 else 0) + 1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
