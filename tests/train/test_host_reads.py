"""How often an update makes the host wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset

from launcher import Task
from launcher.plan.planner import make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.train.job import build_job, build_materials
from launcher.train.loop import train

UPDATES = 6


class Line(Task):
    """A line through points that lie on one."""

    def model(self) -> nn.Module:
        return nn.Linear(4, 1)

    def train_data(self) -> TensorDataset:
        features = torch.randn(64, 4)
        return TensorDataset(features, features.sum(1, keepdim=True))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        features, line = batch
        return functional.mse_loss(model(features).float(), line)


class HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Counts the values that are read from tensors, for each of which the host waits."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def reads_of_updates(non_finite: str = "stop", **recipe: Any) -> Iterator[int]:
    """The reads in each update but the last."""
    settings = Recipe.model_validate(
        {
            "name": "reads",
            "batch": {"global": 16, "micro": 4},
            "train": {"updates": UPDATES, "max_grad_norm": 1.0, **recipe},
            "noise_scale": {"every": 2},
            "guard": {"non_finite": non_finite},
        }
    )
    materials = build_materials(Line, seed=1)
    plan = with_facts(make_plan(settings, Topology(nodes=1, nproc_per_node=1, device="cpu")), samples=64, parameters=5)
    counts: list[int] = []
    with HostReads() as reads:
        job = build_job(plan, materials, 0, torch.device("cpu"), lambda: False)
        train(job, lambda result: None, lambda update: counts.append(reads.count))
    return (after - before for before, after in pairwise(counts))


@pytest.mark.parametrize(("precision", "most"), [("fp32", 0), ("bf16", 0), ("fp16", 1)])
def test_an_update_waits_for_the_device_once_at_most(precision: str, most: int) -> None:
    """In fp16 for whether the step was taken, which the next learning rate depends on; else never.

    What goes to the metrics is copied in the background, and read when it has arrived.
    """
    assert list(reads_of_updates(precision=precision)) == [most] * (UPDATES - 1)


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1), ("fp16", 1)])
def test_leaving_out_what_is_not_finite_waits_once(precision: str, most: int) -> None:
    assert list(reads_of_updates(non_finite="skip", precision=precision)) == [most] * (UPDATES - 1)
