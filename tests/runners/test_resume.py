"""Runs that end before their time and go on: the same rows and, bit for bit, the same parameters in the end."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.plan.order import sample_order
from tests.faults.table import Kind
from tests.metrics import comparable_rows
from tests.processes import launcher

MORTAL = "tests/tasks/mortal.yaml"
UPDATES = 20
IN_UPDATE_7 = {1: "0:40", 2: "1:20", 3: "2:13", 4: "3:7"}  # world size → KILL; by then rank 0 has saved update 4


def run(
    runs: Path, run_id: str, *arguments: str, env: Mapping[str, str] | None = None, expected: int = 0
) -> tuple[str, str]:
    settings = arguments if "launch.restarts=3" in arguments else ("launch.restarts=0", *arguments)
    done = launcher("run", MORTAL, "--runs", str(runs), "--run-id", run_id, *settings, env=env)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout, done.stderr


def rows(runs: Path, run_id: str) -> list[dict[str, Any]]:
    """The rows of a run, without what a clock has measured."""
    return comparable_rows(runs / run_id)


def state(runs: Path, run_id: str) -> dict[str, bytes]:
    """The files of the last checkpoint of a run, but the one that says who wrote it."""
    folder = runs / run_id / "checkpoints" / f"step_{UPDATES:08d}"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "MANIFEST.json"}


@pytest.mark.fault(
    Kind.PROCESS,
    "a rank dies in an update, on 1 to 4 ranks",
    by="SIGKILL; --resume auto",
    outcome="resumed: the last checkpoint bit for bit that of an undisturbed run, and its rows",
)
@pytest.mark.parametrize("world", [3, *(pytest.param(world, marks=pytest.mark.long) for world in (1, 2, 4))])
@pytest.mark.parametrize("task", ["Mortal", pytest.param("Counted", marks=pytest.mark.long)])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, world: int, task: str) -> None:
    job = (f"launch.nproc_per_node={world}", f"task.entry=mortal.py:{task}")
    run(tmp_path, "whole", *job)
    _, said = run(tmp_path, "killed", *job, env={"KILL": IN_UPDATE_7[world]}, expected=3)
    assert "was killed by SIGKILL" in said
    out, _ = run(tmp_path, "killed", *job, "--resume", "auto")
    assert "resumed after update" in out
    assert rows(tmp_path, "killed") == rows(tmp_path, "whole")
    assert [row["train/global_step"] for row in rows(tmp_path, "killed")] == list(range(1, UPDATES + 1))
    assert state(tmp_path, "killed") == state(tmp_path, "whole")


@pytest.mark.long
def test_with_the_engine_accelerate_the_bits_are_the_same_too(tmp_path: Path) -> None:
    """Those of ddp, whether it is accelerate that starts the ranks or not, and after a rank was killed."""
    accelerate = ("launch.nproc_per_node=3", "parallel.engine=accelerate")
    run(tmp_path, "whole", "launch.nproc_per_node=3")
    _, said = run(tmp_path, "it", *accelerate, "launch.method=accelerate", env={"KILL": IN_UPDATE_7[3]}, expected=3)
    assert "was killed by SIGKILL" in said
    out, _ = run(tmp_path, "it", *accelerate, "launch.method=accelerate", "--resume", "auto")
    assert "resumed after update" in out
    assert rows(tmp_path, "it") == rows(tmp_path, "whole")
    assert state(tmp_path, "it") == state(tmp_path, "whole")


@pytest.mark.long
@pytest.mark.parametrize("more", [(), ("train.accumulate_dtype=fp32",)], ids=["bf16", "accumulated in fp32"])
def test_parameters_in_bf16_go_on_too(tmp_path: Path, more: tuple[str, ...]) -> None:
    job = ("launch.nproc_per_node=2", "task.entry=mortal.py:Half", *more)
    run(tmp_path, "whole", *job)
    run(tmp_path, "it", *job, env={"KILL": IN_UPDATE_7[2]}, expected=3)
    assert "resumed after update" in run(tmp_path, "it", *job, "--resume", "auto")[0]
    assert rows(tmp_path, "it") == rows(tmp_path, "whole")
    assert state(tmp_path, "it") == state(tmp_path, "whole")
    parameters = 9 * 40 + 41 * 40 + 41
    assert rows(tmp_path, "it")[0]["comm/allreduce_bytes"] == (4 if more else 2) * parameters


@pytest.mark.fault(
    Kind.PROCESS,
    "a rank dies again and again",
    by="SIGKILL every five updates",
    outcome="the launcher goes on by itself, each time a checkpoint further; the same bits",
)
@pytest.mark.long
def test_a_run_whose_rank_dies_goes_on_by_itself(tmp_path: Path) -> None:
    """Rank 1 is killed every 15 losses, five updates: each time the run gets one checkpoint further."""
    run(tmp_path, "whole", "checkpoint.background=true")
    out, said = run(tmp_path, "it", "launch.restarts=3", env={"KILL": "1:15"})
    assert said.count("Rank 1 was killed by SIGKILL") == out.count("(tries left without progress: 2)") > 2
    assert rows(tmp_path, "it") == rows(tmp_path, "whole")
    assert state(tmp_path, "it") == state(tmp_path, "whole")


@pytest.mark.fault(
    Kind.VALUE,
    "a sample kills each rank that meets it",
    by="SIGKILL",
    outcome="given up after three tries without progress",
)
@pytest.mark.long
def test_a_run_that_gets_no_further_ends(tmp_path: Path) -> None:
    """A sample of update 6 kills whatever meets it; the last checkpoint before it is that of update 4."""
    poison = sample_order(np.array([5 * 22]), length=150, seed=0, epoch=0)[0]
    out, said = run(tmp_path, "it", "launch.restarts=3", env={"POISON": str(poison)}, expected=3)
    left = [out.index(f"going on after update 4 (tries left without progress: {tries})") for tries in (2, 1, 0)]
    assert left == sorted(left)
    assert said.count("was killed by SIGKILL") == 4


@pytest.mark.fault(
    Kind.DISK,
    "a checkpoint cannot be written",
    by="a file in its way",
    outcome="a warning; the training goes on, and the next checkpoint is written",
)
@pytest.mark.long
def test_where_a_checkpoint_cannot_be_written_the_training_goes_on(tmp_path: Path) -> None:
    run(tmp_path, "it", env={"KILL": IN_UPDATE_7[2]}, expected=3)
    (tmp_path / "it" / "checkpoints" / ".unfinished_step_00000008.2").write_text("in the way")
    out, _ = run(tmp_path, "it", "--resume", "auto")
    assert "warning: no checkpoint after update 8: File exists. The training goes on" in out
    assert out.count("warning: no checkpoint") == 1
    assert len(rows(tmp_path, "it")) == UPDATES
    assert "model.safetensors" in state(tmp_path, "it")


@pytest.mark.fault(
    Kind.WORLD,
    "a run is resumed on other ranks with another micro-batch: 2, 3, 1",
    by="SIGKILL of a rank; --resume auto",
    outcome="the same windows, batches and rates",
)
@pytest.mark.long
def test_other_ranks_and_another_micro_batch_take_the_same_windows(tmp_path: Path) -> None:
    windows = ("train/global_step", "train/samples_seen", "train/learning_rate", "batch/global_samples")
    run(tmp_path, "whole", "checkpoint.every=null")
    run(tmp_path, "it", env={"KILL": "1:15"}, expected=3)
    run(tmp_path, "it", "launch.nproc_per_node=3", "batch.micro=3", "--resume", "auto", env={"KILL": "2:9"}, expected=3)
    run(tmp_path, "it", "launch.nproc_per_node=1", "--resume", "auto")
    one, other = ([[row[key] for key in windows] for row in rows(tmp_path, name)] for name in ("whole", "it"))
    assert one == other
    assert {row["batch/world_size"] for row in rows(tmp_path, "it")} == {1, 2, 3}


@pytest.mark.fault(
    Kind.DIRECTORY,
    "a finished run is resumed",
    by="--resume auto",
    outcome="exit code 0, and nothing is changed",
)
@pytest.mark.long
def test_a_run_that_is_done_stays_so(tmp_path: Path) -> None:
    run(tmp_path, "it")
    before = state(tmp_path, "it")
    out, _ = run(tmp_path, "it", "--resume", "auto")
    assert out.startswith("done: ")
    assert state(tmp_path, "it") == before


@pytest.mark.fault(
    Kind.PROCESS,
    "a rank dies before the first checkpoint",
    by="SIGKILL; --resume auto",
    outcome="begun again: the last checkpoint bit for bit that of an undisturbed run, and its rows",
)
@pytest.mark.long
def test_killed_before_its_first_checkpoint_a_run_begins_again(tmp_path: Path) -> None:
    run(tmp_path, "whole")
    run(tmp_path, "it", env={"KILL": "0:4"}, expected=3)
    out, _ = run(tmp_path, "it", "--resume", "auto")
    assert "begun again" in out
    assert state(tmp_path, "it") == state(tmp_path, "whole")
    assert rows(tmp_path, "it") == rows(tmp_path, "whole")


@pytest.mark.fault(
    Kind.REQUEST,
    "the recipe has changed at a resume",
    by="another rate and batch",
    outcome="refused with each difference; by --fork it goes on with the next sample",
)
@pytest.mark.long
def test_a_changed_recipe_is_refused_with_the_difference(tmp_path: Path) -> None:
    run(tmp_path, "it", env={"KILL": "0:15"}, expected=3)
    before = (tmp_path / "it" / "metrics.jsonl").read_bytes()
    changed = ("optimizer.lr=0.02", "batch.global=24", "--resume", "auto")
    _, said = run(tmp_path, "it", *changed, expected=2)
    assert (
        "optimizer.lr: the run was begun with 0.01, not 0.02. Set it back, or go on with the change by --fork." in said
    )
    assert "batch.global: the run was begun with 22, not 24." in said
    assert (tmp_path / "it" / "metrics.jsonl").read_bytes() == before
    run(tmp_path, "it", *changed, "--fork", env={"KILL": "0:10"}, expected=3)
    past = tmp_path / "it" / ".past.json"
    kept = past.read_bytes()
    past.write_text("{}")
    _, said = run(tmp_path, "it", *changed, expected=2)
    assert "batch: the run has taken 88 samples in 4 updates, which in this recipe are 96." in said
    past.write_bytes(kept)
    out, _ = run(tmp_path, "it", *changed)
    assert "resumed after update 4" in out
    taken = [row["batch/global_samples"] for row in rows(tmp_path, "it")]
    assert taken[:6] == [22] * 4 + [24] * 2
    assert [row["train/samples_seen"] for row in rows(tmp_path, "it")] == list(accumulate(taken))


@pytest.mark.fault(
    Kind.REQUEST,
    "the model's code has changed at a resume",
    by="--fork to another layer width",
    outcome="refused at once with the first difference; with the model as it was the run goes on",
)
@pytest.mark.long
def test_another_model_is_refused_and_the_run_goes_on_without_it(tmp_path: Path) -> None:
    run(tmp_path, "it", env={"KILL": "0:15"}, expected=3)
    plan = (tmp_path / "it" / "plan.json").read_bytes()
    wider = ("task.entry=mortal.py:Wider", "--resume", "auto", "--fork", "launch.restarts=3")
    out, said = run(tmp_path, "it", *wider, expected=2)
    assert "the run was begun with another model: 0.weight is 40 × 8 in the checkpoint, and 30 × 8 in the model" in said
    assert "tries left" not in out
    assert (tmp_path / "it" / "plan.json").read_bytes() == plan
    run(tmp_path, "it", "--resume", "auto")


@pytest.mark.fault(
    Kind.VALUE,
    "a model has a type of tensors that checkpoints cannot hold",
    by="a buffer of complex128",
    outcome="refused before the first update",
)
@pytest.mark.long
def test_a_model_that_cannot_be_kept_is_refused_at_once(tmp_path: Path) -> None:
    _, said = run(tmp_path, "it", "task.entry=mortal.py:Complex", expected=2)
    assert "phases is of torch.complex128: checkpoints have no such tensors" in said
    assert not (tmp_path / "it" / "metrics.jsonl").exists()


@pytest.mark.fault(
    Kind.DISK,
    "the newest checkpoint is damaged",
    by="a flipped bit",
    outcome="named and set aside; the one before is used, and the bits in the end are the same",
)
@pytest.mark.long
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path: Path) -> None:
    run(tmp_path, "whole")
    run(tmp_path, "it", env={"KILL": "0:32"}, expected=3)
    model = tmp_path / "it" / "checkpoints" / "step_00000008" / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[-3] ^= 1
    model.write_bytes(content)
    out, _ = run(tmp_path, "it", "--resume", "auto")
    assert "step_00000008 cannot be used: model.safetensors is damaged" in out
    assert "resumed after update 4" in out
    assert state(tmp_path, "it") == state(tmp_path, "whole")
    assert [path.name for path in (tmp_path / "it" / "checkpoints").glob("bad_*")] == ["bad_step_00000008.1"]


@pytest.mark.fault(
    Kind.DISK,
    "no checkpoint is good",
    by="a deleted file",
    outcome="exit code 65; nothing is begun again unasked",
)
@pytest.mark.long
def test_without_a_good_checkpoint_a_run_does_not_begin_again_unasked(tmp_path: Path) -> None:
    run(tmp_path, "it", env={"KILL": "0:15"}, expected=3)
    shutil.rmtree(tmp_path / "it" / "checkpoints" / "step_00000004" / "model.safetensors", ignore_errors=True)
    (tmp_path / "it" / "checkpoints" / "step_00000004" / "model.safetensors").unlink()
    for _ in range(2):
        _, said = run(tmp_path, "it", "--resume", "auto", expected=65)
        assert "No checkpoint in" in said
