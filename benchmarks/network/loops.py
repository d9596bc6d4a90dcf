"""The loops that are timed: the launcher's own, DDP without `no_sync`, and the same computing without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.network.task import Perceptron
from launcher.plan.planner import Plan, make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.recipe.load import load_recipe
from launcher.train.job import build_job, build_materials
from launcher.train.loop import train
from launcher.train.step_result import StepResult
from launcher.worker.process import StopFlag

RECIPE = Path(__file__).with_name("recipe.yaml")
WORLD_SIZE, MICRO = 2, 8
SKIPPED = 2  # updates at the beginning of a loop that are not timed: DDP rebuilds its buckets, the optimizer its state


def plan_of(accumulation: int, updates: int) -> Plan:
    """The plan of the recipe for so many micro-steps per update."""
    overrides = [f"batch.global={MICRO * accumulation * WORLD_SIZE}", f"train.updates={updates}"]
    recipe = load_recipe(RECIPE, overrides).recipe
    return make_plan(recipe, Topology(nodes=WORLD_SIZE, nproc_per_node=1, device="cpu"))


def launched(accumulation: int, updates: int) -> tuple[float, int]:
    """The launcher's loop, which reduces gradients once per update.

    Returns:
        Seconds per update, and the bytes that were reduced in one.
    """
    results: list[StepResult] = []
    materials = build_materials(Perceptron, 0)
    plan = plan_of(accumulation, SKIPPED + updates)
    plan = with_facts(plan, samples=len(materials.train_data), parameters=materials.parameters)
    job = build_job(plan, materials, dist.get_rank(), torch.device("cpu"), StopFlag().is_set)
    train(job, results.append, lambda update: None)
    rows = [result.row() for result in results[SKIPPED:]]
    return _slowest(float(row["time/update"] or 0) for row in rows), int(rows[-1]["comm/allreduce_bytes"] or 0)


def without_no_sync(accumulation: int, updates: int) -> float:
    """A loop that leaves `no_sync` out, and reduces gradients after each micro-step; seconds per update."""
    model = Perceptron().model()
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    return _timed(ddp, accumulation, updates)


def computing(accumulation: int, updates: int) -> float:
    """The same forward and backward passes and steps, with no network in them; seconds per update."""
    return _timed(Perceptron().model(), accumulation, updates)


def alone(size: int, times: int) -> float:
    """Seconds that one all-reduce of so many bytes takes, with nothing else to do."""
    gradients = torch.zeros(size // 4)
    return _slowest(_seconds(lambda: dist.all_reduce(gradients)) for _ in range(times))


def _timed(model: nn.Module, accumulation: int, updates: int) -> float:
    task = Perceptron()
    columns = task.train_data().tensors
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)

    def update() -> None:
        for step in range(accumulation):
            batch = [column[step * MICRO : (step + 1) * MICRO] for column in columns]
            (task.loss(model, batch) / accumulation).backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _slowest([_seconds(update) for _ in range(SKIPPED + updates)][SKIPPED:])


def _seconds(do: Callable[[], object]) -> float:
    dist.barrier()
    began = perf_counter()
    do()
    return perf_counter() - began


def _slowest(seconds: Iterable[float]) -> float:
    """The median over the updates, each as long as the slower rank's: an update ends when both have done theirs."""
    own = torch.tensor(list(seconds), dtype=torch.float64)
    dist.all_reduce(own, dist.ReduceOp.MAX)
    slowest: list[float] = own.tolist()
    return median(slowest)
