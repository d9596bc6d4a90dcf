"""The best and the last of some metrics over a whole run, launches before this one included."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

BEST: Mapping[str, str] = {"train/loss": "min", "eval/loss": "min", "eval/accuracy": "max"}
_BETTER: Mapping[str, Callable[[float, float], float]] = {"min": min, "max": max}


class Bests:
    """Follows the metrics of `BEST` row by row. What is not finite is no best."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, float]] = {}

    def take(self, row: Mapping[str, float]) -> None:
        """Take the next row."""
        for metric, kind in BEST.items():
            if metric in row and math.isfinite(value := row[metric]):
                found = self._found.setdefault(metric, {kind: value})
                found[kind] = _BETTER[kind](found[kind], value)
                found["last"] = value

    def found(self) -> dict[str, dict[str, float]]:
        """Metric → its best, by the word for it, and its last."""
        return {metric: dict(found) for metric, found in self._found.items()}
