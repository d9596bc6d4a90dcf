"""`batch.micro: auto` through the command line, with ranks that run out of memory as GPUs do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.metrics import comparable_rows
from tests.processes import launcher

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # several launches each
RECIPE = "tests/tasks/hungry.yaml"
UPDATES = 10


def run(runs: Path, run_id: str, *settings: str, expected: int = 0) -> str:
    """Run the recipe; what it said."""
    done = launcher("run", RECIPE, "--runs", str(runs), "--run-id", run_id, *settings, timeout=400)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


def result(run: Path, update: int = UPDATES) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The rows of a run, and the bits of what it has trained, random numbers included."""
    folder = run / "checkpoints" / f"step_{update:08d}"
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.endswith((".safetensors", ".json"))}
    del kept["MANIFEST.json"]
    return comparable_rows(run), kept


def batch_of(run: Path) -> dict[str, Any]:
    batch: dict[str, Any] = json.loads((run / "plan.json").read_text())["batch"]
    return batch


@pytest.mark.parametrize(("world", "found"), [(1, 12), (2, 12), (3, 8)])
def test_a_run_that_finds_its_micro_batch_equals_one_that_was_given_it(tmp_path: Path, world: int, found: int) -> None:
    """Bit for bit, with dropout; the global batch is the recipe's in every row."""
    both = (f"launch.nproc_per_node={world}", "task.args.dropout=0.2")
    said = run(tmp_path, "auto", *both)
    assert "micro-batches of what fits, at most" in said
    assert f"micro-batch: {found} samples fit, 16 do not" in said
    assert f"effective global batch: 48 = {world} × {48 // found // world} micro-steps of {found} samples" in said
    assert batch_of(tmp_path / "auto")["micro"] == found
    run(tmp_path, "given", *both, f"batch.micro={found}")
    assert result(tmp_path / "auto") == result(tmp_path / "given")
    assert [row["batch/global_samples"] for row in comparable_rows(tmp_path / "auto")] == [48, 48, 48, 48, 8] * 2


def test_a_size_that_does_not_fit_on_one_rank_is_taken_by_none(tmp_path: Path) -> None:
    """The seventh micro-step of rank 1 is the first of 8 samples. A resume goes on with what was found."""
    settings = ('task.args.fails={"1": [7]}', "train.updates=6", "launch.nproc_per_node=3")
    said = run(tmp_path, "it", *settings)
    assert "micro-batch: 6 samples fit, 8 do not" in said
    assert batch_of(tmp_path / "it")["micro_steps"] == [3, 3, 2]
    (tmp_path / "it" / "status.json").unlink()  # as if it had not gone to its end
    again = run(tmp_path, "it", "--resume", "auto", *settings)
    assert "effective global batch 48 = 3 × 2 or 3 micro-steps of 6 samples" in again
    assert "micro-batch:" not in again


def test_where_not_one_sample_fits_the_run_ends_with_a_sentence(tmp_path: Path) -> None:
    said = run(tmp_path, "it", "task.args.most=0", expected=3)
    assert "not even one sample fits: its forward, backward and optimizer step run out of memory" in said
