"""Memory that runs out in a run through the command line, on one rank while others wait for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from launcher.plan.fitting import FoundMicro
from tests.faults.table import Kind
from tests.metrics import comparable_rows
from tests.runners.test_fitting import UPDATES, result, run

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # several launches each
HALVE = ("batch.micro=8", "batch.on_out_of_memory=halve")


def run_with(found: list[FoundMicro], runs: Path, run_id: str, *settings: str) -> None:
    """A run in which nothing fails, and whose micro-batches are given update by update."""
    (runs / run_id).mkdir()
    kept = {"asked": 8, "engine": "ddp", "found": [each.model_dump() for each in found]}
    (runs / run_id / ".fitting.json").write_text(json.dumps(kept))
    run(runs, run_id, *settings)


def parameters(run: Path) -> dict[str, Any]:
    return load_file(run / "checkpoints" / f"step_{UPDATES:08d}" / "model.safetensors")


@pytest.mark.fault(
    Kind.VALUE,
    "one of three ranks runs out of memory in its backward of update 7, while the others wait for it",
    by="torch.OutOfMemoryError in the backward of the boundary",
    outcome="the update is made again with half the micro-batch; the same parameters as without the failure",
)
def test_one_of_three_ranks_fails_in_its_backward(tmp_path: Path) -> None:
    """Bit for bit a run that had the smaller micro-batch from update 7 on; one that never had it, to rounding."""
    both = (*HALVE, "launch.nproc_per_node=3")
    said = run(tmp_path, "failed", *both, 'task.args.fails={"1": [12]}')
    assert "rank 1 ran out of memory in update 7 with 8 samples: from here on micro-batches have 4" in said
    run_with([FoundMicro(since=0, micro=8), FoundMicro(since=6, micro=4)], tmp_path, "smaller", *both)
    assert result(tmp_path / "failed") == result(tmp_path / "smaller")
    run(tmp_path, "never", *both)
    never = parameters(tmp_path / "never")
    for name, value in parameters(tmp_path / "failed").items():
        if name.startswith("layers"):  # buffers count forward passes
            assert abs(value - never[name]).max() <= 1e-6 * abs(never[name]).max(), name
    rows = comparable_rows(tmp_path / "failed")
    assert [row["train/global_step"] for row in rows] == list(range(1, UPDATES + 1))
    assert [row["batch/global_samples"] for row in rows] == [48, 48, 48, 48, 8] * 2
    assert [row["train/samples_seen"] for row in rows][-1] == 400
    plan = json.loads((tmp_path / "failed" / "plan.json").read_text())
    assert plan["batch"]["micro"] == 4


def test_failures_on_both_ranks_and_a_death_in_between(tmp_path: Path) -> None:
    """Data that draw and are loaded ahead by a process; dropout. The launch after goes on with what was found."""
    both = (*HALVE, "task.entry=hungry.py:Noisy", "task.args.dropout=0.2", "data.workers=1")
    faults = (
        'task.args.fails={"1": [17], "0": [33]}',
        'task.args.dies={"0": [36]}',
        f"task.args.once={tmp_path}",
        "launch.restarts=1",
    )
    said = run(tmp_path, "failed", *both, *faults)
    assert "rank 1 ran out of memory in update 7 with 8 samples" in said
    assert "rank 0 ran out of memory in update 9 with 4 samples" in said
    assert "going on after update 5" in said
    found = [FoundMicro(since=0, micro=8), FoundMicro(since=6, micro=4), FoundMicro(since=8, micro=2)]
    run_with(found, tmp_path, "never", *both)
    assert result(tmp_path / "failed") == result(tmp_path / "never")


@pytest.mark.fault(
    Kind.VALUE,
    "one of three ranks runs out of memory in an evaluation, which the others go through",
    by="torch.OutOfMemoryError in the second batch of the evaluation after update 4",
    outcome="all evaluate again, half as many samples at a time; training is as without the failure",
)
def test_one_of_three_ranks_fails_in_an_evaluation(tmp_path: Path) -> None:
    both = (*HALVE, "launch.nproc_per_node=3", "task.entry=hungry.py:Evaluated", "eval.every=4")
    said = run(tmp_path, "failed", *both, 'task.args.fails={"1": [2]}')
    assert said.count("an evaluation ran out of memory with 8 samples at a time: from here on evaluations take 4 ") == 1
    run(tmp_path, "never", *both)
    failed, never = parameters(tmp_path / "failed"), parameters(tmp_path / "never")
    assert all((failed[name] == value).all() for name, value in never.items() if name.startswith("layers"))
    rows = [comparable_rows(tmp_path / run_id) for run_id in ("failed", "never")]
    means = [[row["eval/loss"] for row in each if "eval/loss" in row] for each in rows]
    assert len(means[0]) == 3
    assert means[0] == pytest.approx(means[1], rel=1e-6)


def test_without_halving_the_run_ends_with_the_cure(tmp_path: Path) -> None:
    said = run(tmp_path, "it", "batch.micro=8", 'task.args.fails={"1": [2]}', expected=3)
    assert "Rank 1 failed in update 1: MemoryRanOutError: memory ran out in a micro-step of 8 samples" in said
    assert "Set batch.micro=4, batch.micro=auto or batch.on_out_of_memory=halve: the global batch stays" in said


def test_with_one_sample_on_one_rank_all_end(tmp_path: Path) -> None:
    said = run(
        tmp_path, "it", "batch.on_out_of_memory=halve", "batch.micro=2", 'task.args.fails={"1": [3, 4]}', expected=3
    )
    assert "rank 1 ran out of memory in update 1 with 2 samples" in said
    assert "launcher: update 1 does not fit with one sample in a micro-step" in said
