"""Reading files that are still being written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from launcher.rundir.rows import row_of


class LineFollower:
    """The whole lines that are appended to a file, which may not be there yet.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._half = b""

    def new(self) -> Iterator[str]:
        """The lines since the last call; a line without its end is kept for the next."""
        if self._file is None:
            if not self._path.exists():
                return
            self._file = self._path.open("rb")
        self._half += self._file.read()
        *lines, self._half = self._half.split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")


class RowFollower:
    """The rows that are appended to a metrics file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._lines = LineFollower(path)

    def new(self) -> Iterator[dict[str, float | None]]:
        """The rows since the last call; a damaged line is none."""
        for line in self._lines.new():
            row = row_of(line)
            if row is not None:
                yield row
