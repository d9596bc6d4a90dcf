"""The work that is measured: one window of a network whose activations are much larger than its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from launcher import Loss, Task
from launcher.plan.planner import make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.recipe.schema import Backward, Recipe
from launcher.train.accumulation import LoadedWindow
from launcher.train.job import Job, build_job, build_materials

Layout: TypeAlias = Literal["own forwards", "trunk"]

WIDTH = 128
TRUNK_LAYERS, HEAD_LAYERS = 6, 3
MICRO_STEPS = 2  # per window, K


@dataclass(frozen=True)
class Way:
    """How the losses of a micro-batch are computed, and how they go backward."""

    layout: Layout
    backward: Backward

    @property
    def edition(self) -> str:
        """The edition with its number."""
        return {"joint": "1 joint", "sequential": "2 sequential", "shared": "3 shared"}[self.backward]


WAYS = (
    Way("own forwards", "joint"),
    Way("own forwards", "sequential"),
    Way("trunk", "joint"),
    Way("trunk", "sequential"),
    Way("trunk", "shared"),
)


@dataclass(frozen=True)
class Work:
    """One window of one way.

    Attributes:
        way: the layout and the edition.
        tasks: losses, T.
        micro: samples per micro-step.
    """

    way: Way
    tasks: int
    micro: int


def ready(work: Work) -> tuple[Job, LoadedWindow]:
    """The job of a rank alone, as the launcher builds it, and its window."""
    plan = make_plan(_recipe(work), Topology(nodes=1, nproc_per_node=1, device="cpu"))
    kind = {"own forwards": OwnForwards, "trunk": SharedTrunk}[work.way.layout]
    materials = build_materials(lambda: kind(work), seed=0)
    plan = with_facts(plan, samples=len(materials.train_data), parameters=materials.parameters)
    job = build_job(plan, materials, 0, torch.device("cpu"), lambda: False)
    return job, next(iter(job.windows))


def _recipe(work: Work) -> Recipe:
    return Recipe.model_validate(
        {
            "batch": {"micro": work.micro, "accumulation": MICRO_STEPS},
            "multitask": {"losses": dict.fromkeys(_names(work.tasks), 1.0), "backward": work.way.backward},
            "train": {"updates": 1},
        }
    )


class Perceptrons(Task):
    """A trunk, and a head on it for each loss.

    Args:
        work: how many losses, and for how many samples.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def model(self) -> nn.Module:
        """All perceptrons."""
        heads = nn.ModuleDict({name: _layers(HEAD_LAYERS) for name in _names(self._work.tasks)})
        return nn.ModuleDict({"trunk": _layers(TRUNK_LAYERS), "heads": heads})

    def train_data(self) -> TensorDataset:
        """Noise, enough for the window."""
        return TensorDataset(torch.randn(MICRO_STEPS * self._work.micro, WIDTH))


class OwnForwards(Perceptrons):
    """Each loss from a forward pass of its own."""

    def loss(self, model: Any, batch: Any) -> Iterator[Loss]:
        """Trunk and head for each loss."""
        for name, head in model["heads"].items():
            yield Loss(head(model["trunk"](batch[0])).square().mean(), name=name)


class SharedTrunk(Perceptrons):
    """The losses on one forward pass of the trunk."""

    def trunk(self, model: Any, batch: Any) -> Tensor:
        """The forward pass."""
        features: Tensor = model["trunk"](batch[0])
        return features

    def heads(self, model: Any, features: Tensor, batch: Any) -> Iterator[Loss]:
        """The heads in turn."""
        for name, head in model["heads"].items():
            yield Loss(head(features).square().mean(), name=name)


def _layers(how_many: int) -> nn.Module:
    return nn.Sequential(*(layer for _ in range(how_many) for layer in (nn.Linear(WIDTH, WIDTH), nn.GELU())))


def _names(tasks: int) -> list[str]:
    return [f"task{number}" for number in range(1, tasks + 1)]
