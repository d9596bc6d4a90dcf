"""metrics.jsonl: one JSON object per update, always written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from launcher.rundir.rows import row_of


def read_rows(path: Path, say: Callable[[str], None]) -> Iterator[dict[str, float]]:
    """The rows of a metrics file, as they were logged; null becomes nan.

    A line without its end is left out, and so is a damaged one, which is said.

    Args:
        path: the file.
        say: takes a sentence that the user should read.
    """
    damaged = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                continue
            row = row_of(line)
            if row is None:
                damaged += 1
            else:
                yield {key: math.nan if value is None else value for key, value in row.items()}
    if damaged:
        say(f"warning: damaged lines of {path.name} that are left out: {damaged:,}")


class JsonlTracker:
    """Appends each row as a line, handed to the system at once, so that a killed run keeps its rows.

    While the disk is full the training goes on: rows wait in memory, and are written when there is room again.

    Args:
        path: the file; its folder exists.
        say: takes a sentence that the user should read.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say
        self._file = path.open("ab", buffering=0)
        self._waiting = b""
        self._trouble = False

    def log(self, row: Mapping[str, float]) -> None:
        """Write one line. Numbers that JSON has not (nan, inf) become null."""
        finite = {key: value if math.isfinite(value) else None for key, value in row.items()}
        self._waiting += json.dumps(finite).encode() + b"\n"
        self._write()

    def finish(self, succeeded: bool) -> None:
        """Write what waits, if it can be written, and close the file."""
        self._write()
        if self._waiting:
            rows = self._waiting.count(b"\n")
            self._say(f"warning: {self._path.name} lacks its last {rows} rows")
        self._file.close()

    def _write(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if not self._trouble:
                self._say(f"warning: {self._path.name} cannot be written now: {error.strerror}; the training goes on")
            self._trouble = True
