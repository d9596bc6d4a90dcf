"""Tasks that would train wrongly in silence: each is either trained rightly, or ended with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.table import Kind
from tests.processes import launcher


def run(runs: Path, task: str, *overrides: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Exit code, standard error, rows."""
    entry = f"task.entry=tiny.py:{task}"
    done = launcher("run", "tests/tasks/tiny.yaml", entry, *overrides, "--runs", str(runs), "--run-id", "it")
    metrics = runs / "it" / "metrics.jsonl"
    rows = metrics.read_text().splitlines() if metrics.exists() else []
    return done.returncode, done.stderr, [json.loads(row) for row in rows]


@pytest.mark.long
def test_a_rank_without_samples_harms_no_window(tmp_path: Path) -> None:
    """The tail has two samples, so that one of the two ranks has none of its own."""
    code, stderr, rows = run(tmp_path, "Contrast", "train.updates=4")
    assert code == 0, stderr
    assert [row["batch/global_samples"] for row in rows] == [16, 2, 16, 2]
    assert all(isinstance(row["train/loss"], float) for row in rows)


@pytest.mark.fault(
    Kind.VALUE,
    "gradients that are not reduced",
    by="a loss that uses half of the model",
    outcome="the run ends before a wrong step",
)
def test_gradients_that_are_not_reduced_end_the_run_before_a_wrong_step(tmp_path: Path) -> None:
    code, stderr, rows = run(tmp_path, "HalfUsed", "train.updates=1")
    assert code == 3
    assert "in update 1: RuntimeError: 0 bytes of gradients were reduced instead of 40" in stderr
    assert "Set parallel.find_unused_parameters=true" in stderr
    assert rows == []


@pytest.mark.fault(
    Kind.VALUE,
    "ranks that see different data",
    by="a task that deals its data out itself",
    outcome="refused before the first update",
)
@pytest.mark.long
def test_ranks_that_see_different_data_are_refused(tmp_path: Path) -> None:
    code, stderr, rows = run(tmp_path, "OwnPart")
    assert code == 3
    assert "before its first update: ValueError: the ranks do not see the same task: they have 64, 63 samples" in stderr
    assert rows == []


@pytest.mark.parametrize("entry", ["tiny.py:Tiny", pytest.param("tests.tasks.tiny:Tiny", marks=pytest.mark.long)])
def test_heads_that_are_not_written_are_missed_before_the_first_update(tmp_path: Path, entry: str) -> None:
    """A file is read before anything starts; a package only by the workers, which say the same."""
    code, stderr, rows = run(tmp_path, "Tiny", f"task.entry={entry}", "multitask.backward=shared")
    assert code == 2, stderr
    assert "multitask.backward: shared needs a trunk and heads on it, and Tiny does not write trunk and heads" in stderr
    assert rows == []


@pytest.mark.long
def test_what_a_task_draws_is_the_same_in_every_rank(tmp_path: Path) -> None:
    losses = []
    for ranks in (1, 2):
        code, stderr, rows = run(tmp_path / str(ranks), "Drawn", f"launch.nproc_per_node={ranks}")
        assert code == 0, stderr
        losses.append([row["train/loss"] for row in rows])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.long
def test_an_exception_with_a_familiar_name_is_a_failure(tmp_path: Path) -> None:
    code, stderr, _ = run(tmp_path, "Service", "launch.nproc_per_node=1")
    assert code == 3
    assert "Rank 0 failed in update 1: RequestError: the image server said 503" in stderr


@pytest.mark.long
def test_an_evaluation_to_a_mean_is_refused(tmp_path: Path) -> None:
    code, stderr, _ = run(tmp_path, "MeanOfMeans", "launch.nproc_per_node=1")
    assert code == 3
    assert "Task.evaluate: 'index' has the shape []; return one number for each of the 4 samples" in stderr
