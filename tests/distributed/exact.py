"""Worker of test_exact.py: short trainings on this world's ranks, and a hash of what each ends with.

torchrun --nproc-per-node=W -m tests.rank tests.distributed.exact OUT.json
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

from launcher.errors import RequestError
from launcher.plan.planner import make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.plan.windows import windows_of_run
from launcher.recipe.parallel_section import ParallelSection
from launcher.recipe.schema import Recipe
from launcher.train.engines.exact import ExactEngine
from launcher.train.engines.gradients import trained_bytes
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
    Case("V=2", 2),
    Case("V=3", 3),
    Case("V=3, fewer micro-batches", 3, global_batch=5),
    Case("twice", 4, "Twice"),
    Case("as DDP", None),
)


OVERLAPPED = CASES[0]  # where there are as many ranks as it has virtual ones


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


class Twice(Plain):
    """A layer that gets its gradient in several backwards, which run within the backward."""

    def model(self) -> nn.Module:
        return nn.ModuleDict({"first": nn.Linear(FEATURES, 33), "again": nn.Linear(33, 33), "last": nn.Linear(33, 1)})

    def loss(self, model: Any, batch: Any) -> Tensor:
        inputs, targets = batch
        found = model["first"](inputs)
        for _ in range(3):
            found = checkpoint(model["again"], found, use_reentrant=True).tanh()
        return functional.mse_loss(model["last"](found), targets)


class Normed(Plain):
    """BatchNorm, whose running statistics follow from the order of the micro-batches."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


class NormedAlone(Plain):
    """InstanceNorm, of whose running statistics PyTorch counts no new version when it changes them."""

    def model(self) -> nn.Module:
        norm = nn.InstanceNorm1d(2, track_running_stats=True)
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.Unflatten(1, (2, 4)), norm, nn.Flatten(), nn.Linear(8, 1))


TASKS = {task.__name__: task for task in (Plain, Counted, Several, Unused, Twice, Normed, NormedAlone)}


class Recorder:
    """What happens in an update, in order: gradients that are there, and collective calls with the bytes they send.

    Args:
        model: whose gradients.
        world: ranks.
    """

    def __init__(self, model: nn.Module, world: int) -> None:
        self.updates: list[list[str]] = []
        self.sent: list[float] = []
        self._world = world
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(lambda _: self._note("gradient"))  # type: ignore[no-untyped-call]  # torch's

    def begins(self, update: int) -> None:
        self.updates.append([])
        self.sent.append(0.0)

    @contextmanager
    def recording(self) -> Iterator[None]:
        to_all, gather = dist.all_to_all_single, dist.all_gather

        def all_to_all_single(receive: Tensor, send: Tensor, *arguments: Any, **named: Any) -> Any:
            self._note("exchange", send.nbytes * (self._world - 1) / self._world)
            return to_all(receive, send, *arguments, **named)

        def all_gather(receive: list[Tensor], send: Tensor, **named: Any) -> Any:
            self._note("gather", send.nbytes * (self._world - 1))
            return gather(receive, send, **named)

        with mock.patch.multiple(dist, all_to_all_single=all_to_all_single, all_gather=all_gather):
            yield

    def _note(self, what: str, sent: float = 0.0) -> None:
        if self.updates:
            self.updates[-1].append(what)
            self.sent[-1] += sent


def trained(case: Case, rank: int, world: int, overlap: bool = True) -> dict[str, Any]:
    """What a training ends with on this rank; without overlap, buckets go only after the backward in any case."""
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
    recorder = Recorder(job.engine.model, world)
    if not overlap:
        job.engine._overlaps = False  # type: ignore[attr-defined]  # only here is there anything to switch off
    with recorder.recording():
        train(job, results.append, recorder.begins)
    rows = [result.row() for result in results]
    return {
        "state": _hash(job.engine.model, job.stepper.optimizer),
        "rows": [[row.get(name) for name in ROW] for row in rows],
        "noise": [row.get("train/gradient_noise_scale") for row in rows],
        "bytes": [row["comm/allreduce_bytes"] for row in rows],
        "calls": [row["comm/allreduce_calls"] for row in rows],
        "events": recorder.updates,
        "sent": recorder.sent,
        "gradient_bytes": 4 * materials.parameters,
    }


def peak_copies(rank: int, world: int, virtual_ranks: int) -> float:
    """Memory that an update of an exact run takes at most on this rank, in copies of the gradients."""
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(48)))
    engine = ExactEngine(model, torch.device("cpu"), ParallelSection(bucket_mb=0.02), world, virtual_ranks)
    inputs = torch.ones(1, 64)
    (window,) = windows_of_run(
        data_samples=virtual_ranks,
        global_batch=virtual_ranks,
        micro=1,
        world_size=world,
        keep_tail=True,
        updates=1,
        virtual_ranks=virtual_ranks,
    )
    steps = len(window.micro_batches(rank))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        for step in range(steps):
            engine.begin(window, step)
            engine.micro_step(lambda model: model(inputs).sum(), boundary=step == steps - 1)
        engine.reduce()
    assert profiled.profiler is not None
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    held = accumulate(event.nbytes() for event in events if event.name() == "[memory]")
    return float(max(held) / trained_bytes(model))


def _hash(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    for index, remembered in sorted(optimizer.state_dict()["state"].items()):
        for key, value in sorted(remembered.items()):
            found.update(f"{index}{key}".encode() + torch.as_tensor(value).numpy().tobytes())
    return found.hexdigest()


def _refusal(task: str, rank: int, world: int) -> str:
    try:
        trained(Case("normed", 4, task), rank, world)
    except RequestError as refused:
        return str(refused)
    return ""


def main(out: Path) -> None:
    world = int(os.environ["WORLD_SIZE"])
    if world > 1:
        dist.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    of_cases = {case.name: trained(case, rank, world) for case in CASES if world <= (case.virtual_ranks or world)}
    copies = {virtual: peak_copies(rank, world, virtual) for virtual in (4, 8)}
    found = {
        "copies": copies,
        "cases": of_cases,
        "after": trained(OVERLAPPED, rank, world, overlap=False),
        "refusals": [_refusal(task, rank, world) for task in ("Normed", "NormedAlone")],
    }
    if world > 1:
        gathered: list[Any] = [None] * world
        dist.all_gather_object(gathered, found)
    else:
        gathered = [found]
    if rank == 0:
        out.write_text(json.dumps(gathered))
