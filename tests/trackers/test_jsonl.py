from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from launcher.trackers.base import Composite
from launcher.trackers.jsonl import JsonlTracker
from tests.faults.table import Kind


def test_rows_are_in_the_file_as_soon_as_they_are_logged(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = JsonlTracker(tmp_path / "metrics.jsonl", said.append)
    tracker.log({"train/global_step": 1, "train/loss": math.nan, "train/grad_norm": math.inf})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"train/global_step": 1, "train/loss": None, "train/grad_norm": None}
    tracker.finish(True)
    assert said == []


@pytest.mark.fault(
    Kind.DISK,
    "the disk is full when a row is written",
    by="/dev/full",
    outcome="said once; rows wait in memory",
)
def test_a_full_disk_is_said_once_and_ends_nothing() -> None:
    said: list[str] = []
    tracker = JsonlTracker(Path("/dev/full"), said.append)
    for update in range(3):
        tracker.log({"train/global_step": update})
    tracker.finish(True)
    assert said == [
        "warning: full cannot be written now: No space left on device; the training goes on",
        "warning: full lacks its last 3 rows",
    ]


def test_trackers_fail_apart() -> None:
    ended: list[str] = []

    class Recording:
        def __init__(self, name: str, fails: bool) -> None:
            self.name, self.fails = name, fails

        def log(self, row: object) -> None: ...

        def finish(self, succeeded: bool) -> None:
            ended.append(self.name)
            if self.fails:
                raise RuntimeError(self.name)

    with pytest.raises(RuntimeError):
        Composite([Recording("a", True), Recording("b", True), Recording("c", False)]).finish(True)
    assert ended == ["a", "b", "c"]
