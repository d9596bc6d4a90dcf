"""A loss that is not finite in one rank: all ranks do the same about it, and no checkpoint holds what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.faults.table import Kind
from tests.processes import launcher

TINY = "tests/tasks/tiny.yaml"
WRONG = ("task.args.fault=nan", "task.args.rank=1", "task.args.at=11")  # in update 6, in a micro-step before its last


def run(runs: Path, *settings: str) -> CompletedProcess[str]:
    usual = ("train.updates=9", "checkpoint.every=3", "checkpoint.keep=9", "guard.every=1")
    return launcher("run", TINY, *usual, *WRONG, *settings, "--runs", str(runs), "--run-id", "it")


def rows(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (runs / "it" / "metrics.jsonl").read_text().splitlines()]


def finite_checkpoints(runs: Path) -> dict[str, bool]:
    """The checkpoints, each with whether all of the model and the optimizer is finite."""
    return {
        folder.name: all(
            bool(values.isfinite().all())
            for file in folder.glob("*.safetensors")
            for values in load_file(file).values()
        )
        for folder in sorted((runs / "it" / "checkpoints").glob("step_*"))
    }


@pytest.mark.fault(
    Kind.VALUE,
    "a loss is not finite in one rank",
    by="nan in one micro-step; guard.non_finite=stop",
    outcome="all ranks end in that update; no checkpoint holds what came of it",
)
def test_it_ends_the_run_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr.startswith("launcher: Update 6 is not finite: loss nan, gradient norm nan. No checkpoint was")
    assert "going on" not in done.stdout  # it would come again
    assert finite_checkpoints(tmp_path) == {"step_00000003": True}


@pytest.mark.fault(
    Kind.VALUE,
    "a loss is not finite in one rank, and is to be left out",
    by="nan in one micro-step; guard.non_finite=skip",
    outcome="no rank makes that update; the schedule does not count it",
)
@pytest.mark.long
@pytest.mark.parametrize("clip", ["null", pytest.param("1.0", marks=pytest.mark.long)])
def test_its_update_is_left_out_where_that_is_wanted(tmp_path: Path, clip: str) -> None:
    done = run(tmp_path, "guard.non_finite=skip", f"train.max_grad_norm={clip}", "schedule.name=linear")
    assert done.returncode == 0, done.stdout + done.stderr
    assert finite_checkpoints(tmp_path) == {"step_00000003": True, "step_00000006": True, "step_00000009": True}
    rates = [row["train/learning_rate"] for row in rows(tmp_path)]
    assert [row["train/skipped_updates"] for row in rows(tmp_path)] == [0] * 5 + [1] * 4
    assert [row["train/loss"] is None for row in rows(tmp_path)] == [False] * 5 + [True] + [False] * 3
    assert rates[5] == rates[6] > rates[7]  # the schedule counts what was stepped on


@pytest.mark.long
def test_without_the_guard_all_is_lost(tmp_path: Path) -> None:
    done = run(tmp_path, "guard.non_finite=off")
    assert done.returncode == 0, done.stdout + done.stderr
    assert finite_checkpoints(tmp_path)["step_00000009"] is False
