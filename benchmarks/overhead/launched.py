"""The launcher's own loop on the same work, with all that a user gets: measurements, metrics.jsonl, exact division."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from benchmarks.overhead.work import (
    LEARNING_RATE,
    MICRO,
    SAMPLES,
    WEIGHT_DECAY,
    WORLD_SIZE,
    Ran,
    Work,
    make_data,
    make_model,
)
from launcher import Task
from launcher.plan.planner import Plan, make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.trackers.base import Composite
from launcher.trackers.jsonl import JsonlTracker
from launcher.train.accumulation import LoadedWindow
from launcher.train.job import build_job, build_materials
from launcher.train.loop import train
from launcher.train.run_windows import RunWindows
from launcher.train.step_result import StepResult
from launcher.worker.process import StopFlag


class WorkTask(Task):
    """The work as a task.

    Args:
        work: what to train.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def model(self) -> nn.Module:
        """The perceptron."""
        return make_model(self._work.size)

    def train_data(self) -> TensorDataset:
        """The data, as tensors."""
        return TensorDataset(*make_data(self._work.seed))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Cross-entropy, the mean over the micro-batch."""
        features, classes = batch
        return functional.cross_entropy(model(features), classes)


class CountedTask(WorkTask):
    """The work as a task that counts its items, as one over tokens does; they are the samples."""

    def items(self, batch: Any) -> int:
        """Rows that have a class."""
        _, classes = batch
        return int((classes >= 0).sum())


def plan_of(work: Work) -> Plan:
    """The plan of a run; the recipe says nothing that the loop by hand does not do."""
    recipe = Recipe.model_validate(
        {
            "name": "overhead",
            "data": {"samples": SAMPLES},
            "batch": {"global": work.global_batch, "micro": MICRO},
            "train": {"updates": work.updates, "seed": work.seed},
            "optimizer": {"name": "adamw", "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
        }
    )
    return make_plan(recipe, Topology(nodes=1, nproc_per_node=WORLD_SIZE, device="cpu"))


def run_launched(work: Work, rank: int, folder: Path, mark: Callable[[int], None]) -> Ran:
    """Train.

    Args:
        work: what to train.
        rank: this rank.
        folder: where rank 0 writes metrics.jsonl.
        mark: told the number of each update (from 0) before anything is done for it.
    """
    kind = CountedTask if work.items == "counted" else WorkTask
    materials = build_materials(lambda: kind(work), work.seed)
    plan = with_facts(plan_of(work), samples=len(materials.train_data), parameters=materials.parameters)
    job = build_job(plan, materials, rank, torch.device("cpu"), StopFlag().is_set)
    trackers = Composite([JsonlTracker(folder / "metrics.jsonl", print)] if rank == 0 else [])
    log = _Log(trackers, rank)
    train(replace(job, windows=_Marked(job.windows, mark)), log, log.started)
    trackers.finish(True)
    return Ran(job.engine.model, job.windows.loader.waited if isinstance(job.windows, RunWindows) else 0.0)


class _Log:
    """What the worker does with each update.

    Args:
        trackers: take the rows, on rank 0.
        rank: this rank.
    """

    def __init__(self, trackers: Composite, rank: int) -> None:
        self._trackers = trackers
        self._rank = rank
        self._update = 0

    def started(self, update: int) -> None:
        """As for failure records."""
        self._update = update

    def __call__(self, result: StepResult) -> None:
        """As for metrics."""
        if self._rank == 0:
            self._trackers.log(result.row())


class _Marked:
    """The windows; before each is asked for, its update is marked.

    Args:
        windows: the windows.
        mark: told the number of each update, from 0.
    """

    def __init__(self, windows: Iterable[LoadedWindow], mark: Callable[[int], None]) -> None:
        self._windows = windows
        self._mark = mark

    def __iter__(self) -> Iterator[LoadedWindow]:
        remaining = iter(self._windows)
        for update in count():
            self._mark(update)
            window = next(remaining, None)
            if window is None:
                return
            yield window
