"""The rows of runs, to be compared with those of other runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_CLOCKS = ("time/", "throughput/", "memory/")


def comparable_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of a run without what a clock has measured, and with ten digits of each number.

    What updates measured is added over the ranks for all updates of a tenth of a second together. Among three ranks or
    more, how many those were decides in which order a ring adds each number, and so its last bit.
    """
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {key: _ten_digits(value) for key, value in json.loads(line).items() if not key.startswith(_CLOCKS)}
        for line in lines
    ]


def _ten_digits(value: Any) -> Any:
    return float(f"{value:.10g}") if isinstance(value, float) else value
