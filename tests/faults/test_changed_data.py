"""Data that change between two launches of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.table import Kind
from tests.runners.test_resume import IN_UPDATE_7, rows, run


@pytest.mark.long
@pytest.mark.fault(
    Kind.VALUE,
    "the data have changed when a run goes on",
    by="as many samples of another seed at `--resume auto`, read here or by a data worker",
    outcome="refused, naming a sample; `--fork` goes on",
)
@pytest.mark.parametrize("workers", [0, 1])
def test_other_data_are_refused_unless_that_is_wanted(tmp_path: Path, workers: int) -> None:
    job = (f"data.workers={workers}", "task.entry=mortal.py:Augmented")
    run(tmp_path, "it", *job, env={"KILL": IN_UPDATE_7[2]}, expected=3)
    before = rows(tmp_path, "it")[:4]
    _, said = run(tmp_path, "it", *job, "--resume", "auto", env={"DATA": "1"}, expected=2)
    assert "task: the run was begun on other data: sample 0 has changed" in said
    assert "--fork" in said
    run(tmp_path, "it", *job, "--resume", "auto", "train.updates=6", "--fork", env={"DATA": "1"})
    assert rows(tmp_path, "it")[:4] == before
    assert len(rows(tmp_path, "it")) == 6
