"""A run goes on with checkpoints of its own, and under its own ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from launcher.cli.request import read_request
from launcher.errors import RequestError
from launcher.rundir.checkpoints import Checkpoint, Checkpoints, NoCheckpointError
from launcher.rundir.durable import write_durably
from launcher.rundir.generation import StaleWriterError, take_over
from launcher.rundir.identity import NEW_WANDB_RUN, marks_of, refuse_foreign, restore_identity
from launcher.rundir.layout import RunDirectory
from launcher.runners.resume import take_up
from launcher.trackers.wandb_id import wandb_id_of
from tests.faults.table import Kind
from tests.processes import ROOT

MORTAL = ROOT / "tests/tasks/mortal.yaml"


def begun(folder: Path) -> RunDirectory:
    folder.mkdir()
    return RunDirectory(folder)


def saved(run: RunDirectory, marks: dict[str, str]) -> Checkpoint:
    store = Checkpoints(run, print)
    folder = store.begin(1)
    return store.commit(folder, 1, {"training.json": write_durably(folder / "training.json", [b"{}"])}, marks)


@pytest.mark.fault(
    Kind.DIRECTORY,
    "a checkpoint of another run lies among those of a run",
    by="a copied folder",
    outcome="refused, exit code 2, and named",
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    mine, other = begun(tmp_path / "mine"), begun(tmp_path / "other")
    refuse_foreign(mine, saved(mine, marks_of(mine)))
    shutil.rmtree(mine.checkpoints)
    saved(other, marks_of(other))
    shutil.copytree(other.checkpoints, mine.checkpoints)
    found = Checkpoints(mine, print).newest()
    assert found is not None
    with pytest.raises(RequestError, match="step_00000001 was written by another run"):
        refuse_foreign(mine, found)


def test_a_refused_run_is_as_it_was(tmp_path: Path) -> None:
    mine, other = begun(tmp_path / "mine"), begun(tmp_path / "other")
    marks_of(mine)
    saved(other, marks_of(other))
    shutil.copytree(other.checkpoints, mine.checkpoints)
    rows = "".join(json.dumps({"train/global_step": step}) + "\n" for step in range(1, 9))
    mine.metrics.write_text(rows)
    plan = read_request(MORTAL, []).plan
    mine.plan.write_text(plan.to_json())
    with pytest.raises(RequestError, match="written by another run"):
        take_up(mine, plan, fork=False, say=print)
    assert mine.metrics.read_text() == rows


def test_a_run_is_taken_over_before_its_rows_are_cut(tmp_path: Path) -> None:
    """A writer of the launch before that commits meanwhile would leave a checkpoint whose rows are gone."""
    run = begun(tmp_path / "it")
    take_over(run)
    (saved(run, {}).folder / "strange").touch()  # so that something is said in the midst of it
    old = Checkpoints(run, print)
    unfinished = old.begin(2)
    run.logs.mkdir()
    run.rank_log(0).touch()
    plan = read_request(MORTAL, []).plan
    run.plan.write_text(plan.to_json())

    def say(_: str) -> None:
        with pytest.raises(StaleWriterError):
            old.commit(unfinished, 2, {})
        said.append(_)

    said: list[str] = []
    with pytest.raises(NoCheckpointError):
        take_up(run, plan, fork=False, say=say)
    assert len(said) == 1
    assert [path.name for path in run.logs.iterdir()] == ["rank_0.log.1"]


def test_a_checkpoint_from_before_there_were_ids_is_taken(tmp_path: Path) -> None:
    run = begun(tmp_path / "it")
    marks_of(run)
    refuse_foreign(run, saved(run, {}))


def test_a_run_has_the_same_identity_in_every_launch(tmp_path: Path) -> None:
    run = begun(tmp_path / "it")
    assert marks_of(run) == marks_of(run)
    assert marks_of(run) != marks_of(begun(tmp_path / "another"))


@pytest.mark.fault(
    Kind.DIRECTORY,
    "the ids of a run are lost",
    by="an empty file; a file that is gone",
    outcome="taken from the checkpoint: the same run, in W&B too",
)
@pytest.mark.parametrize("empty", [False, True])
def test_lost_ids_are_taken_from_the_checkpoint(tmp_path: Path, empty: bool) -> None:
    run = begun(tmp_path / "it")
    wandb_id = wandb_id_of(run)
    before = marks_of(run)
    assert before["wandb_id"] == wandb_id
    checkpoint = saved(run, before)
    for path in (run.identity, run.wandb_id):
        path.unlink()
        if empty:
            path.touch()
    refuse_foreign(run, checkpoint)
    restore_identity(run, checkpoint)
    assert marks_of(run) == before
    assert wandb_id_of(run) == wandb_id


def test_a_fork_does_not_get_the_old_wandb_run_back(tmp_path: Path) -> None:
    run = begun(tmp_path / "it")
    before = wandb_id_of(run)
    checkpoint = saved(run, marks_of(run))
    run.wandb_id.write_text(NEW_WANDB_RUN)
    restore_identity(run, checkpoint)
    assert "wandb_id" not in marks_of(run)
    assert wandb_id_of(run) != before
