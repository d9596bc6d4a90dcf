"""metrics.jsonl: one JSON object per update, always written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path


class JsonlTracker:
    """Appends each row as a line, handed to the system at once, so that a killed run keeps its rows.

    Args:
        path: the file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def log(self, row: Mapping[str, float]) -> None:
        """Write one line. Numbers that JSON has not (nan, inf) become null."""
        finite = {key: value if math.isfinite(value) else None for key, value in row.items()}
        self._file.write(json.dumps(finite) + "\n")

    def finish(self, succeeded: bool) -> None:
        """Close the file."""
        self._file.close()
