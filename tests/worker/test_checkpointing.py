"""What checkpoints are written after, and what they can be given to: not another model."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from launcher import Task
from launcher.errors import RequestError
from launcher.plan.changes import recipe_mark
from launcher.plan.planner import make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.rundir.checkpoints import Checkpoint, Checkpoints, NoCheckpointError
from launcher.rundir.identity import marks_in
from launcher.rundir.layout import RunDirectory
from launcher.train.job import Job, build_job, build_materials
from launcher.train.loop import train
from launcher.train.snapshot import Tensors
from launcher.worker.checkpoint_files import Captured
from launcher.worker.checkpointing import RunSaver, refuse_what_cannot_be_kept
from launcher.worker.resuming import checkpoint_to_resume, load_checkpoint
from tests.faults.table import Kind

SGD = {"name": "sgd", "lr": 0.01, "momentum": 0.9}
ADAMW = {"name": "adamw", "lr": 0.01}


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))


class Layers(Task):
    """Least squares by a model of the test's choice."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self.make = make

    def model(self) -> nn.Module:
        return self.make()

    def train_data(self) -> TensorDataset:
        inputs = torch.randn(32, 4)
        return TensorDataset(inputs, inputs.sum(1, keepdim=True))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        return functional.mse_loss(model(inputs), targets)


class Backwards(Layers):
    """Its optimizer has the same parameters in another order."""

    def parameter_groups(self, model: nn.Module) -> list[nn.Parameter]:
        return list(model.parameters())[::-1]


def job_of(task: Task, optimizer: dict[str, Any], updates: int = 2, first: int = 0, **sections: Any) -> Job:
    recipe = Recipe.model_validate(
        {"name": "it", "batch": {"global": 8, "micro": 4}, "optimizer": optimizer, **sections}
        | {"train": {"updates": updates, **sections.get("train", {})}}
    )
    plan = make_plan(recipe, Topology(nodes=1, nproc_per_node=1, device="cpu"))
    materials = build_materials(lambda: task, seed=1)
    plan = with_facts(plan, samples=32, parameters=materials.parameters)
    return build_job(plan, materials, 0, torch.device("cpu"), lambda: False, first)


def trained(job: Job, run: RunDirectory) -> None:
    train(job, lambda result: None, lambda update: None, RunSaver(run, job, print))


def gone_on(run: RunDirectory, job: Job) -> list[str]:
    """Load the newest checkpoint and train on; what was said."""
    said: list[str] = []
    checkpoint = Checkpoints(run, print).newest()
    assert checkpoint is not None
    load_checkpoint(checkpoint, job, said.append)
    trained(job, run)
    return said


@pytest.mark.parametrize(("before", "after"), [(SGD, ADAMW), (ADAMW, SGD)])
def test_another_optimizer_begins_anew(tmp_path: Path, before: dict[str, Any], after: dict[str, Any]) -> None:
    run = RunDirectory(tmp_path)
    task = Layers(two_layers)
    trained(job_of(task, before), run)
    job = job_of(task, after, updates=4, first=2)
    [said] = gone_on(run, job)
    assert said.startswith("warning: the optimizer begins anew, without what it remembered: it was ")
    assert gone_on(run, job_of(task, after, updates=6, first=4)) == []


def test_the_memory_of_other_parameters_is_not_taken(tmp_path: Path) -> None:
    """By their order alone parameters of one shape would get each other's."""
    run = RunDirectory(tmp_path)

    def square() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 1))

    trained(job_of(Layers(square), ADAMW), run)
    [said] = gone_on(run, job_of(Backwards(square), ADAMW, updates=4, first=2))
    assert "it had other parameters" in said


def test_a_fork_may_begin_with_fp16(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    task = Layers(two_layers)
    trained(job_of(task, ADAMW), run)
    assert gone_on(run, job_of(task, ADAMW, updates=4, first=2, train={"precision": "fp16"})) == []


def test_a_launch_that_begins_a_run_loads_nothing(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    job = job_of(Layers(two_layers), ADAMW)
    trained(job, run)

    def found(told: int | None) -> Checkpoint | None:
        return checkpoint_to_resume(run, 0, lambda value: [value], print, told)

    assert found(told=0) is None
    checkpoint = found(told=2)
    assert checkpoint == found(told=None)
    assert checkpoint is not None
    assert marks_in(checkpoint)["recipe"] == recipe_mark(job.plan)
    shutil.rmtree(run.checkpoints)
    with pytest.raises(NoCheckpointError, match=r"was to go on after update 2, and .* is empty"):
        found(told=2)


def wider() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 1))


def deeper() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1), nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        (two_layers, wider, r"0\.weight is 3 × 4 in the checkpoint, and 5 × 4 in the model"),
        (two_layers, deeper, r"2\.weight is new in the model"),
        (deeper, two_layers, r"2\.bias is in the checkpoint, and not in the model"),
    ],
)
def test_another_model_is_refused_with_the_first_difference(
    tmp_path: Path, before: Callable[[], nn.Module], after: Callable[[], nn.Module], difference: str
) -> None:
    run = RunDirectory(tmp_path)
    trained(job_of(Layers(before), ADAMW), run)
    with pytest.raises(RequestError, match=f"the run was begun with another model: {difference}"):
        gone_on(run, job_of(Layers(after), ADAMW, updates=4, first=2))


class Noted(nn.Linear):
    """Keeps a note in its state."""

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def test_what_checkpoints_cannot_hold_is_refused_before_the_first_update() -> None:
    refuse_what_cannot_be_kept(two_layers())
    with pytest.raises(RequestError, match=r"the model's state holds _extra_state, a dict: .*Keep it out"):
        refuse_what_cannot_be_kept(Noted(2, 2))
    with pytest.raises(RequestError, match=r"weight is of torch\.complex128: .*Keep it out"):
        refuse_what_cannot_be_kept(nn.Linear(2, 2, dtype=torch.complex128))


@pytest.mark.fault(
    Kind.DISK,
    "the disk is slow",
    by="fsync of the model takes 25 s, longer than parallel.timeout (strace)",
    outcome="the run takes longer, and ends well, with all of its checkpoints",
)
def test_a_rank_that_waits_for_its_disk_says_that_it_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the background and not; each part that is written is progress."""
    job = job_of(Layers(two_layers), ADAMW, checkpoint={"background": True})
    seen: list[tuple[str, int]] = []

    def slow(number: int) -> None:
        seen.append((job.progress.phase, job.progress.marks))
        time.sleep(0.3)

    monkeypatch.setattr(os, "fsync", slow)
    trained(job, RunDirectory(tmp_path))
    saving = [marks for phase, marks in seen if phase == "saving"]
    assert len(saving) >= len(seen) - 2  # the first may come before it waits
    assert saving[-1] > saving[0]
    assert job.progress.phase == "saved"
    newest = Checkpoints(RunDirectory(tmp_path), print).newest()
    assert newest is not None
    assert newest.update == 2


_NOTHING = Tensors({}, {})


def test_rows_are_on_the_disk_before_the_checkpoint_that_follows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path)
    run.metrics.write_text("{}\n")
    job: Any = SimpleNamespace(plan=job_of(Layers(two_layers), SGD).plan)
    saver = RunSaver(run, job, print)
    unfinished = saver._store.begin(1)
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink().name))
    saver._commit(unfinished, Captured(1, _NOTHING, _NOTHING, {}), [])
    assert synced.index("metrics.jsonl") < synced.index("MANIFEST.json")
