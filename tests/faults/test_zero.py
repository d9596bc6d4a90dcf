"""Under DeepSpeed: a loss that is not finite, and a loss that leaves parameters out."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.faults.table import Kind
from tests.faults.test_not_finite import WRONG, finite_checkpoints
from tests.processes import launcher

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
TINY = "tests/tasks/tiny.yaml"


def run(runs: Path, stage: int, *settings: str) -> CompletedProcess[str]:
    engine = ("parallel.engine=deepspeed", f"parallel.deepspeed.stage={stage}", "launch.restarts=0")
    usual = ("train.updates=9", "checkpoint.every=3", "checkpoint.keep=9")
    return launcher("run", TINY, *engine, *usual, *settings, "--runs", str(runs), "--run-id", "it", timeout=280)


@pytest.mark.fault(
    Kind.VALUE,
    "a loss is not finite in one rank, under ZeRO stages 0 to 3",
    by="nan in one micro-step; guard.non_finite=stop",
    outcome="all ranks end in that update; no checkpoint holds what came of it",
)
@pytest.mark.parametrize("stage", range(4))
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, stage: int) -> None:
    done = run(tmp_path, stage, *WRONG)
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr.startswith("launcher: Update 6 is not finite: loss nan, gradient norm "), done.stderr
    assert finite_checkpoints(tmp_path) == {"step_00000003": True}


@pytest.mark.fault(
    Kind.VALUE,
    "a loss is not finite in one rank, and is to be left out, under ZeRO stages 0 to 3",
    by="nan in one micro-step; guard.non_finite=skip",
    outcome="no rank makes that update; the schedule does not count it",
)
@pytest.mark.parametrize("stage", range(4))
def test_its_update_is_left_out_where_that_is_wanted(tmp_path: Path, stage: int) -> None:
    done = run(tmp_path, stage, *WRONG, "guard.non_finite=skip", "schedule.name=linear")
    assert done.returncode == 0, done.stdout + done.stderr
    assert finite_checkpoints(tmp_path) == {"step_00000003": True, "step_00000006": True, "step_00000009": True}
    rows: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "it" / "metrics.jsonl").open()]
    rates = [row["train/learning_rate"] for row in rows]
    assert [row["train/skipped_updates"] for row in rows] == [0] * 5 + [1] * 4
    assert rates[5] == rates[6] > rates[7]  # the schedule counts what was stepped on


@pytest.mark.fault(
    Kind.VALUE,
    "a loss leaves parameters out, under ZeRO stages 0 to 3",
    by="half of the model is not used",
    outcome="refused in the first update, before the step",
)
@pytest.mark.parametrize("stage", range(4))
def test_a_loss_that_leaves_parameters_out_is_told(tmp_path: Path, stage: int) -> None:
    done = run(tmp_path, stage, "task.entry=tiny.py:HalfUsed")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "the loss does not use every parameter" in done.stderr
    assert not list((tmp_path / "it" / "checkpoints").glob("step_*"))
