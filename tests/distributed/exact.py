"""Worker of test_exact.py: short trainings on this world's ranks, and a hash of what each ends with.

torchrun --nproc-per-node=W -m tests.rank tests.distributed.exact OUT.json
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from launcher.errors import RequestError
from launcher.plan.planner import make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.train.job import build_job, build_materials
from launcher.train.loop import train
from launcher.train.step_result import StepResult
from launcher.train.task import Loss, Task

SAMPLES = 61
FEATURES = 7  # rows of 28 bytes: views of a window's data would begin at other addresses on other ranks
UPDATES = 6
ROW = ("train/loss", "train/grad_norm", "train/samples_seen", "train/learning_rate", "batch/global_items")


@dataclass(frozen=True)
class Case:
    """A training.

    Attributes:
        name: what is special about it.
        virtual_ranks: V; None trains as without `exact`.
        task: the name of its task.
        global_batch: samples per update.
        micro: samples per micro-batch.
        backward: how several losses go backward.
    """

    name: str
    virtual_ranks: int | None
    task: str = "Plain"
    global_batch: int = 24
    micro: int = 3
    backward: str = "joint"


CASES = (
    Case("V=4", 4),
    Case("V=8", 8),
    Case("uneven", 8, global_batch=20),
    Case("prime", 4, global_batch=23, micro=2),
    Case("prime, V=5", 5, global_batch=23, micro=2),
    Case("fewer micro-batches than virtual ranks", 8, global_batch=5),
    Case("counted", 8, "Counted"),
    Case("sequential", 4, "Several", backward="sequential"),
    Case("unused", 4, "Unused"),
    Case("as DDP", None),
)


class Plain(Task):
    """Least squares with dropout in float32."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(SAMPLES, FEATURES, generator=generator)
        self.data = TensorDataset(inputs, inputs.sin().sum(dim=1, keepdim=True))

    def model(self) -> nn.Module:
        layers = [nn.Linear(FEATURES, 33), nn.Tanh(), nn.Dropout(0.2), nn.Linear(33, 33), nn.Tanh(), nn.Linear(33, 1)]
        return nn.Sequential(*layers)

    def train_data(self) -> TensorDataset:
        return self.data

    def loss(self, model: nn.Module, batch: Any) -> Any:
        inputs, targets = batch
        return functional.mse_loss(model(inputs), targets)


class Counted(Plain):
    """Items depend on the data, and some micro-batches have none."""

    def items(self, batch: Any) -> int:
        return int((batch[1] > 0).sum())

    def loss(self, model: nn.Module, batch: Any) -> Any:
        inputs, targets = batch
        return Loss(((model(inputs) - targets).square() * (targets > 0)).sum(), "sum")


class Several(Plain):
    """Two losses with forward passes of their own, of which one often has no items in a whole window."""

    def items(self, batch: Any) -> dict[str, int]:
        return {"first": len(batch[0]), "second": int((batch[1] > 3).sum())}

    def loss(self, model: nn.Module, batch: Any) -> Iterator[Loss]:
        inputs, targets = batch
        yield Loss(functional.mse_loss(model(inputs), targets), "mean", "first")
        yield Loss(((model(inputs) - targets).abs() * (targets > 3)).sum(), "sum", "second")


class Unused(Plain):
    """A layer that only some micro-batches use, and one that none does."""

    def model(self) -> nn.Module:
        return nn.ModuleDict({"main": super().model(), "some": nn.Linear(1, 1), "never": nn.Linear(1, 1)})

    def loss(self, model: Any, batch: Any) -> Tensor:
        inputs, targets = batch
        found = model["main"](inputs)
        return functional.mse_loss(model["some"](found) if float(inputs[0, 0]) > 0 else found, targets)


class Normed(Plain):
    """BatchNorm, whose running statistics follow from the order of the micro-batches."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


TASKS = {task.__name__: task for task in (Plain, Counted, Several, Unused, Normed)}


def trained(case: Case, rank: int, world: int) -> dict[str, Any]:
    """What a training ends with on this rank."""
    recipe = Recipe.model_validate(
        {
            "task": {"entry": f"package.module:{case.task}"},
            "batch": {"global": case.global_batch, "micro": case.micro},
            "train": {
                "updates": UPDATES,
                "max_grad_norm": 0.5,
                **({"determinism": "exact", "virtual_ranks": case.virtual_ranks} if case.virtual_ranks else {}),
            },
            "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.01},
            "schedule": {"name": "cosine", "warmup": 0.3},
            "multitask": {"losses": {"first": 1.0, "second": 0.5}, "backward": case.backward}
            if case.task == "Several"
            else {},
            "noise_scale": {"every": 2},
            "parallel": {"bucket_mb": 0.002},
        }
    )
    materials = build_materials(TASKS[case.task], seed=1)
    plan = make_plan(recipe, Topology(nodes=1, nproc_per_node=world, device="cpu"))
    plan = with_facts(plan, samples=SAMPLES, parameters=materials.parameters)
    job = build_job(plan, materials, rank, torch.device("cpu"), lambda: False)
    results: list[StepResult] = []
    train(job, results.append, lambda update: None)
    rows = [result.row() for result in results]
    return {
        "state": _hash(job.engine.model, job.stepper.optimizer),
        "rows": [[row.get(name) for name in ROW] for row in rows],
        "noise": [row.get("train/gradient_noise_scale") for row in rows],
        "bytes": [row["comm/allreduce_bytes"] for row in rows],
        "gradient_bytes": 4 * materials.parameters,
    }


def _hash(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    for index, remembered in sorted(optimizer.state_dict()["state"].items()):
        for key, value in sorted(remembered.items()):
            found.update(f"{index}{key}".encode() + torch.as_tensor(value).numpy().tobytes())
    return found.hexdigest()


def _refusal(rank: int, world: int) -> str:
    try:
        trained(Case("normed", 4, "Normed"), rank, world)
    except RequestError as refused:
        return str(refused)
    return ""


def main(out: Path) -> None:
    world = int(os.environ["WORLD_SIZE"])
    if world > 1:
        dist.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    found = {"cases": {case.name: trained(case, rank, world) for case in CASES}, "refusal": _refusal(rank, world)}
    if world > 1:
        gathered: list[Any] = [None] * world
        dist.all_gather_object(gathered, found)
    else:
        gathered = [found]
    if rank == 0:
        out.write_text(json.dumps(gathered))
