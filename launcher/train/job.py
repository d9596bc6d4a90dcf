"""Everything that a rank trains with, put together from the plan and the task."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from launcher.plan.planner import Plan
from launcher.plan.windows import Window
from launcher.train.accumulator import Accumulator, MicroBatchData
from launcher.train.engines.base import Engine
from launcher.train.engines.ddp import DdpEngine
from launcher.train.engines.single import SingleEngine
from launcher.train.loader import WindowLoader, shares_of_rank
from launcher.train.optimizer import build_optimizer
from launcher.train.task import SampleSource, Task


@dataclass(frozen=True)
class Job:
    """One rank's share of a training run.

    Attributes:
        plan: the plan, with the length of the data.
        task: the user's task.
        engine: holds the ranks together.
        accumulator: takes a window through forward and backward.
        optimizer: steps once per window.
        windows: the windows with this rank's micro-batches.
        eval_data: what to evaluate on, if anything.
        precision: the context of a forward pass.
        should_stop: whether this rank was asked to stop.
    """

    plan: Plan
    task: Task
    engine: Engine
    accumulator: Accumulator
    optimizer: torch.optim.Optimizer
    windows: Iterable[tuple[Window, list[MicroBatchData]]]
    eval_data: SampleSource | None
    precision: AbstractContextManager[Any]
    should_stop: Callable[[], bool]


@dataclass(frozen=True)
class Materials:
    """The user's own objects, built once in each rank, with the same seed in all of them."""

    task: Task
    model: nn.Module
    train_data: SampleSource
    eval_data: SampleSource | None

    @property
    def parameters(self) -> int:
        """Trainable parameters of the model."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)


def build_materials(make_task: Callable[[], Task], seed: int) -> Materials:
    """The task, its model and its data, the same on every rank whatever they draw at random.

    Args:
        make_task: makes the task.
        seed: the recipe's seed.
    """
    seed_everything(seed, rank=None)
    task = make_task()
    return Materials(task, task.model(), task.train_data(), task.eval_data())


def build_job(
    plan: Plan, materials: Materials, rank: int, device: torch.device, should_stop: Callable[[], bool]
) -> Job:
    """Put a rank's job together; with more than one rank, the process group must be up.

    Args:
        plan: the plan, with the facts of the materials.
        materials: the user's objects.
        rank: this rank.
        device: its device.
        should_stop: whether this rank was asked to stop.
    """
    recipe, task = plan.recipe, materials.task
    model = materials.model.to(device)
    engine: Engine = (
        DdpEngine(model, device, recipe.parallel) if plan.topology.world_size > 1 else SingleEngine(model, device)
    )
    seed_everything(recipe.train.seed, rank)
    precision: AbstractContextManager[Any] = nullcontext()
    if recipe.train.precision == "bf16":
        precision = torch.autocast(device.type, dtype=torch.bfloat16)
    data = materials.train_data
    shares = shares_of_rank(plan.windows(), rank, len(data), recipe.train.seed)
    return Job(
        plan=plan,
        task=task,
        engine=engine,
        accumulator=Accumulator(engine, task.loss, precision),
        optimizer=build_optimizer(recipe.optimizer, task.parameter_groups(model), model, plan.learning_rate),
        windows=WindowLoader(task, data, shares, device, recipe.data.workers),
        eval_data=materials.eval_data,
        precision=precision,
        should_stop=should_stop,
    )


def seed_everything(seed: int, rank: int | None) -> None:
    """Seed Python, numpy and torch: alike on all ranks (None) for the model, apart for dropout in training."""
    own = seed if rank is None else (seed * 1_000_003 + rank + 1) % 2**63
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)
