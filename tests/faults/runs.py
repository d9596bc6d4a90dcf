"""Runs of tests/tasks/fatal.yaml: disturbed and undisturbed, and whether they come to the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np

from launcher.plan.order import sample_order
from tests.processes import launcher
from tests.tasks.fatal import SAMPLES

RECIPE = "tests/tasks/fatal.yaml"
UPDATES = 25
BATCH, MICRO = 16, 4
_CLOCKS = ("time/", "throughput/", "memory/")


def sample_of(update: int, rank: int, micro_step: int) -> int:
    """The first sample of a micro-batch on two ranks; all are counted as people do, but ranks are from 0."""
    position = (update - 1) * BATCH + rank * BATCH // 2 + (micro_step - 1) * MICRO
    return int(sample_order(np.array([position]), length=SAMPLES, seed=0, epoch=0)[0])


@dataclass(frozen=True)
class Run:
    """A run in a folder of runs."""

    runs: Path
    name: str = "it"

    @property
    def path(self) -> Path:
        return self.runs / self.name

    @property
    def notes(self) -> Path:
        """The folder in which the task notes when what happened."""
        return self.runs / f"{self.name}.notes"

    def arguments(self, *settings: str) -> list[str]:
        """Of the command."""
        return ["run", RECIPE, *settings, "--runs", str(self.runs), "--run-id", self.name]

    def launch(self, *settings: str, **options: Any) -> CompletedProcess[str]:
        return launcher(*self.arguments(*settings), **options)

    def faults(self, faults: Mapping[int, str]) -> tuple[str, ...]:
        """The settings for faults, each given the sample at which it happens."""
        self.notes.mkdir(exist_ok=True)
        return (
            f"task.args.faults={json.dumps({str(at): what for at, what in faults.items()})}",
            f"task.args.notes={self.notes}",
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "status.json").read_text())
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Without what a clock has measured."""
        lines = (self.path / "metrics.jsonl").read_text().splitlines()
        return [
            {key: value for key, value in json.loads(line).items() if not key.startswith(_CLOCKS)} for line in lines
        ]

    def state(self, update: int = UPDATES) -> dict[str, bytes]:
        """The files of a checkpoint, but the one that says who wrote it."""
        folder = self.path / "checkpoints" / f"step_{update:08d}"
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "MANIFEST.json"}

    def result(self) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
        """What two runs have alike that come to the same."""
        return self.rows(), self.state()

    def seconds_to_recover(self) -> float:
        """From a fault until rank 0 trained again, the longest of all."""
        begun = sorted(path.stat().st_mtime for path in self.notes.glob("[0-9]*"))
        happened = [path.stat().st_mtime for path in self.notes.glob("[a-z]*")]
        return max(min(at for at in begun if at > fault) - fault for fault in happened)
