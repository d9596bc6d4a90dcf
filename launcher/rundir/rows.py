"""The rows of metrics.jsonl: cut back to the update that a run goes on after."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path


def cut_rows(metrics: Path, update: int) -> None:
    """Keep the rows up to an update. The kept part stays as it is; a row that was never ended goes too."""
    with suppress(FileNotFoundError), metrics.open("r+b") as file:
        kept = 0
        for line in file:
            if not line.endswith(b"\n") or _update_of(line) > update:
                break
            kept += len(line)
        file.truncate(kept)
        os.fsync(file.fileno())


def _update_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["train/global_step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
