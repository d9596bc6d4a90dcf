"""A job whose state is of a given size, after its first update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from launcher import Task
from launcher.plan.planner import make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.train.job import Job, build_job, build_materials
from launcher.train.loop import train

_WIDTH = 1000  # a layer has a million parameters


class Layers(Task):
    """Linear layers.

    Args:
        millions: how many millions of parameters.
    """

    def __init__(self, millions: int) -> None:
        self._millions = millions

    def model(self) -> nn.Module:
        """A million parameters a layer."""
        return nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(self._millions)))

    def train_data(self) -> TensorDataset:
        """Noise."""
        return TensorDataset(torch.randn(2, _WIDTH))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean square of what comes out."""
        loss: Tensor = model(batch[0]).square().mean()
        return loss


def trained_job(millions: int, background: bool) -> Job:
    """A job on one rank with AdamW, which has made one update.

    Args:
        millions: millions of parameters of the model; the state has three numbers for each.
        background: how its checkpoints are written.
    """
    recipe = Recipe.model_validate(
        {
            "name": "checkpoints",
            "batch": {"global": 2, "micro": 2},
            "train": {"updates": 1},
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "checkpoint": {"keep": 2, "background": background},
        }
    )
    materials = build_materials(lambda: Layers(millions), recipe.train.seed)
    plan = make_plan(recipe, Topology(nodes=1, nproc_per_node=1, device="cpu"))
    plan = with_facts(plan, samples=len(materials.train_data), parameters=materials.parameters)
    job = build_job(plan, materials, rank=0, device=torch.device("cpu"), should_stop=lambda: False)
    train(job, lambda result: None, lambda update: None)
    return job
