"""Worker of test_loops.py: whole training loops on this world's ranks, on tasks whose answers are known.

torchrun --nproc-per-node=W -m tests.rank tests.distributed.loops OUT.json
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from launcher import Task
from launcher.plan.order import sample_order
from launcher.plan.planner import make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.train.guard import DivergedError
from launcher.train.job import Job, build_job, build_materials
from launcher.train.loop import train
from launcher.train.step_result import StepResult

DIMENSIONS, UPDATES = 1000, 250
SQUARE = 5.0  # |G|² of the quadratic problem, whose noise per sample is DIMENSIONS
NOISE_SCALE = DIMENSIONS / SQUARE


class Point(nn.Module):
    """A point, and how far it is from others."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.place = nn.Parameter(start)

    def forward(self, others: Tensor) -> Tensor:
        return (self.place - others).square().sum(dim=1) / 2


class Quadratic(Task):
    """Half the squared distance to points around zero with variance one: gradient `place`, noise DIMENSIONS.

    Args:
        samples: how many points.
    """

    def __init__(self, samples: int) -> None:
        self.points = torch.randn(samples, DIMENSIONS, generator=torch.Generator().manual_seed(1))

    def model(self) -> nn.Module:
        return Point(torch.full((DIMENSIONS,), (SQUARE / DIMENSIONS) ** 0.5))

    def train_data(self) -> TensorDataset:
        return TensorDataset(self.points)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        distances: Tensor = model(batch[0]).mean()
        return distances


class Uncounted(Quadratic):
    """The samples of one window have no items."""

    def __init__(self, samples: int, window: range) -> None:
        super().__init__(samples)
        self.without = set(sample_order(window, samples, 0, 0).tolist())
        self.counts = torch.tensor([index not in self.without for index in range(samples)])

    def train_data(self) -> TensorDataset:
        return TensorDataset(self.points, self.counts)

    def items(self, batch: Any) -> int:
        return int(batch[1].sum())

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        distances: Tensor = model(batch[0][batch[1]]).mean()
        return distances


class Overflowing(Quadratic):
    """The samples of one window make the gradient overflow in fp16, as scaled."""

    def __init__(self, samples: int, window: range) -> None:
        super().__init__(samples)
        self.points[sample_order(window, samples, 0, 0)] = 1e35


class Drifting(Quadratic):
    """The last rank changes the second parameter in one update, as a faulty device would."""

    def __init__(self, samples: int, rank: int, update: int) -> None:
        super().__init__(samples)
        self.rank, self.left = rank, update

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(DIMENSIONS, 2), nn.Linear(2, 1))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.left -= 1
        if self.rank == dist.get_world_size() - 1 and self.left == 0:
            with torch.no_grad():
                next(model.children()).bias[0] += 1e-6  # type: ignore[operator,index]
        losses: Tensor = model(batch[0]).square().mean()
        return losses


def job_of(task: Task, samples: int, settings: Mapping[str, Any]) -> Job:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    recipe = Recipe.model_validate(
        {
            "batch": {"global": 60, "micro": 16},
            "train": {"updates": samples // 60},
            "optimizer": {"name": "sgd", "lr": 1e-30},
            "schedule": {"name": "linear"},
            **settings,
        }
    )
    materials = build_materials(lambda: task, recipe.train.seed)
    plan = make_plan(recipe, Topology(nodes=1, nproc_per_node=world, device="cpu"))
    plan = with_facts(plan, samples=samples, parameters=materials.parameters)
    return build_job(plan, materials, rank, torch.device("cpu"), lambda: False)


def rows_of(job: Job) -> list[dict[str, float]]:
    results: list[StepResult] = []
    train(job, results.append, lambda update: None)
    return [result.row() for result in results]


def parameters_of(job: Job) -> list[float]:
    return torch.cat([parameter.detach().flatten()[:3] for parameter in job.engine.model.parameters()]).tolist()


def noise() -> list[dict[str, float]]:
    samples = 60 * UPDATES
    return rows_of(job_of(Quadratic(samples), samples, {"noise_scale": {"every": 1}}))


def empty_window() -> dict[str, Any]:
    job = job_of(Uncounted(300, range(120, 180)), 300, {"optimizer": {"name": "sgd", "lr": 0.1}})
    return {"rows": rows_of(job), "parameters": parameters_of(job)}


def overflow() -> dict[str, Any]:
    settings = {"train": {"updates": 5, "precision": "fp16"}, "optimizer": {"name": "sgd", "lr": 0.1}}
    job = job_of(Overflowing(300, range(120, 180)), 300, settings)
    return {"rows": rows_of(job), "parameters": parameters_of(job)}


UNREACHED = 1_000  # updates: ranks agree on a stop only for all updates of a tenth of a second together


def drift() -> dict[str, str]:
    rank, found = int(os.environ["RANK"]), {}
    kinds = (("watched", 2, 10), ("at the end", 100, 10), ("stopped", 10_000, UNREACHED), ("off", 0, 10))
    for name, every, updates in kinds:
        task = Drifting(600, rank, update=3)
        batch = {"global": 60, "micro": 15}
        job = job_of(task, 600, {"batch": batch, "guard": {"every": every}, "train": {"updates": updates}})
        if name == "stopped":
            job = replace(job, should_stop=partial(has_drifted, task))
        try:
            rows_of(job)
            found[name] = ""
        except DivergedError as error:
            found[name] = str(error)
    return found


def has_drifted(task: Drifting) -> bool:
    return task.left <= 0


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    found: dict[str, Any] = {"noise": noise(), "empty": empty_window(), "overflow": overflow()}
    if dist.get_world_size() > 1:
        found["drift"] = drift()
    if dist.get_rank() == 0:
        out.write_text(json.dumps(found))
    dist.destroy_process_group()
