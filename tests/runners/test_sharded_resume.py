"""Runs whose ranks hold the model in parts end before their time and go on: on as many ranks, on others, or whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.faults.table import Kind
from tests.metrics import comparable_rows
from tests.processes import launcher

pytestmark = pytest.mark.long
MORTAL = "tests/tasks/mortal.yaml"
FSDP = ("parallel.engine=fsdp", "parallel.fsdp.wrap=[Linear]")
UPDATES = 8


def run(runs: Path, run_id: str, *arguments: str, env: Mapping[str, str] | None = None, expected: int = 0) -> str:
    """Run the recipe; what it said."""
    settings = ("launch.restarts=0", f"train.updates={UPDATES}", *arguments)
    done = launcher("run", MORTAL, "--runs", str(runs), "--run-id", run_id, *settings, env=env, timeout=280)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


def rows(runs: Path, run_id: str) -> list[dict[str, Any]]:
    return comparable_rows(runs / run_id)


def state(runs: Path, run_id: str) -> dict[str, bytes]:
    """The files of the last checkpoint of a run, but the one that says who wrote it."""
    folder = runs / run_id / "checkpoints" / f"step_{UPDATES:08d}"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "MANIFEST.json"}


@pytest.mark.fault(
    Kind.PROCESS,
    "a rank dies that holds a part of the model, on 2 and 3 ranks",
    by="SIGKILL; --resume auto",
    outcome="resumed: the last checkpoint bit for bit that of an undisturbed run, and its rows",
)
@pytest.mark.parametrize(("world", "kill", "defer"), [(2, "1:17", "true"), (3, "2:11", "false")])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, world: int, kill: str, defer: str) -> None:
    job = (*FSDP, f"launch.nproc_per_node={world}", f"parallel.fsdp.defer_reduction={defer}")
    run(tmp_path, "whole", *job)
    assert "was killed by SIGKILL" in run(tmp_path, "killed", *job, env={"KILL": kill}, expected=3)
    assert "resumed after update 4" in run(tmp_path, "killed", *job, "--resume", "auto")
    assert rows(tmp_path, "killed") == rows(tmp_path, "whole")
    assert [row["train/global_step"] for row in rows(tmp_path, "killed")] == list(range(1, UPDATES + 1))
    assert state(tmp_path, "killed") == state(tmp_path, "whole")


@pytest.mark.fault(
    Kind.DISK,
    "the disk of one of the ranks that write a checkpoint together is full",
    by="ENOSPC where it writes its part, in the background or not",
    outcome="a warning; nothing half-written is left; the training goes on, and the next checkpoint is whole",
)
@pytest.mark.parametrize("background", ["true", "false"])
@pytest.mark.parametrize("file", ["model_00001.safetensors", "optimizer_00000.safetensors"])
def test_a_part_that_cannot_be_written_costs_a_checkpoint_and_no_more(
    tmp_path: Path, background: str, file: str
) -> None:
    job = (*FSDP, "launch.nproc_per_node=2", "checkpoint.every=2", f"checkpoint.background={background}")
    run(tmp_path, "whole", *job)
    said = run(tmp_path, "it", *job, env={"NO_ROOM": f".unfinished_step_00000004.1/{file}"})
    assert said.count("warning: no checkpoint after update 4: No space left on device") == 1
    assert state(tmp_path, "it") == state(tmp_path, "whole")
    left = sorted(path.name for path in (tmp_path / "it" / "checkpoints").iterdir())
    assert left == ["step_00000002", "step_00000006", "step_00000008"]


@pytest.mark.parametrize("background", ["true", "false"])
def test_each_rank_writes_its_part_and_none_the_whole(tmp_path: Path, background: str) -> None:
    run(tmp_path, "it", *FSDP, "launch.nproc_per_node=2", f"checkpoint.background={background}")
    files = state(tmp_path, "it")
    assert sorted(files) == sorted(
        ["training.json", *(f"rank_{rank:05d}.json" for rank in range(2))]
        + [f"{what}_{rank:05d}.safetensors" for what in ("model", "optimizer") for rank in range(2)]
    )
    sizes = [len(files[f"optimizer_{rank:05d}.safetensors"]) for rank in range(2)]
    assert max(sizes) < 1.2 * min(sizes)


@pytest.mark.fault(
    Kind.WORLD,
    "a run that holds the model in parts goes on on other ranks: 2, 3, 1",
    by="SIGKILL of a rank; --resume auto",
    outcome="the same windows, batches and rates; the model is exported whole",
)
def test_other_ranks_take_the_same_windows(tmp_path: Path) -> None:
    windows = ("train/global_step", "train/samples_seen", "train/learning_rate", "batch/global_samples")
    run(tmp_path, "whole", *FSDP, "checkpoint.every=null")
    every = (*FSDP, "checkpoint.every=2")
    run(tmp_path, "it", *every, env={"KILL": "1:11"}, expected=3)
    three = (*every, "launch.nproc_per_node=3", "--resume", "auto")
    run(tmp_path, "it", *three, env={"KILL": "2:7"}, expected=3)
    run(tmp_path, "it", *every, "launch.nproc_per_node=1", "--resume", "auto")
    one, other = ([[row[key] for key in windows] for row in rows(tmp_path, name)] for name in ("whole", "it"))
    assert one == other
    assert {row["batch/world_size"] for row in rows(tmp_path, "it")} == {1, 2, 3}
    assert launcher("export", str(tmp_path / "it")).returncode == 0
    exported = load_file(tmp_path / "it" / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in exported.items()} == {
        "0.weight": (40, 8),
        "0.bias": (40,),
        "3.weight": (40, 40),
        "3.bias": (40,),
        "5.weight": (1, 40),
        "5.bias": (1,),
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_goes_on_with_another_engine(tmp_path: Path, precision: str) -> None:
    """The checkpoints are the same files: begun whole, gone on with in parts, and whole again."""
    ddp, fsdp = (f"train.precision={precision}",), (*FSDP, f"train.precision={precision}")
    run(tmp_path, "it", *ddp, "train.updates=3")
    run(tmp_path, "it", *fsdp, "train.updates=6", "--resume", "auto", "--fork")
    run(tmp_path, "it", *ddp, "--resume", "auto", "--fork")
    found = rows(tmp_path, "it")
    assert [row["train/global_step"] for row in found] == list(range(1, UPDATES + 1))
    gathered = ["comm/allgather_calls" in row for row in found]
    assert gathered == [False] * 3 + [True] * 3 + [False] * 2


def test_a_class_that_the_model_has_not_is_refused(tmp_path: Path) -> None:
    said = run(tmp_path, "it", "parallel.engine=fsdp", "parallel.fsdp.wrap=[Block]", expected=2)
    assert (
        "parallel.fsdp.wrap: the model has no Block; its classes are Linear, Tanh, Dropout. Name the class of its "
        "blocks, which are gathered one at a time." in said
    )
    assert not (tmp_path / "it" / "metrics.jsonl").exists()
