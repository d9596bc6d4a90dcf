"""Worker of test_gradients.py: every case on this world's ranks, in float64, against the batch that was not split.

torchrun --nproc-per-node=W -m tests.distributed.gradients OUT.json
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from launcher.plan.windows import Window, windows_of_run
from launcher.recipe.schema import ParallelSection
from launcher.train.accumulator import Accumulator
from launcher.train.engines.base import Engine
from launcher.train.engines.ddp import DdpEngine
from launcher.train.engines.single import SingleEngine
from launcher.train.evaluation import evaluate
from launcher.train.loader import WindowLoader, shares_of_rank
from launcher.train.task import Loss, Measured, Task

SAMPLES = 101
EVALUATED = (1, 2, 101, 600)  # fewer than ranks, and more than one batch of a rank


@dataclass(frozen=True)
class Case:
    """One way of splitting windows: samples per update and per micro-step."""

    name: str
    global_batch: int
    micro: int


@dataclass(frozen=True)
class Result:
    """What was measured over the windows of a case.

    Attributes:
        error: largest relative difference of a window's gradient from that of the batch that was not split.
        loss_error: largest relative difference of a window's loss.
        naive_error: the same as `error` for `loss / accumulation_steps` averaged over ranks.
        micro_steps: of this rank, in each window.
        calls: gradient all-reduces per window, as the communication hook counted them.
        bytes: bytes handed to them per window.
        calls_always_synced: the same when no micro-step is held back.
        buckets: DDP's buckets, by its own account.
        gradient_bytes: bytes of one copy of the gradients.
    """

    error: float
    loss_error: float
    naive_error: float
    micro_steps: list[int]
    calls: list[int]
    bytes: list[int]
    calls_always_synced: list[int]
    buckets: int
    gradient_bytes: int


def cases(world: int) -> list[Case]:
    """Even splits with K = 1, 4 and 7, uneven ones, windows smaller than the world; 101 samples leave a tail."""
    return [
        Case("K=1", 8 * world, 8),
        Case("K=4", 16 * world, 4),
        Case("K=7", 14 * world, 2),
        Case("uneven ranks", 4 * world + 1, 4),
        Case("uneven micro-batch", 50, 32),
        Case("prime", 37, 5),
        Case("fewer samples than ranks", 2, 2),
        Case("one sample at a time", 3, 1),
    ]


class Regression(Task):
    """A small network in float64, its data in a fixed random order."""

    def __init__(self, reduction: str) -> None:
        self.reduction = reduction
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(SAMPLES, 6, generator=generator, dtype=torch.float64)
        self.data = TensorDataset(inputs, torch.randn(SAMPLES, 3, generator=generator, dtype=torch.float64) * 3)

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 3)]
        return nn.Sequential(*layers).double()

    def train_data(self) -> TensorDataset:
        return self.data

    def loss(self, model: nn.Module, batch: Any) -> Tensor | Loss:
        inputs, targets = batch
        per_sample = functional.mse_loss(model(inputs), targets, reduction="none").mean(dim=1)
        return Loss(per_sample.sum(), "sum") if self.reduction == "sum" else per_sample.mean()


class Numbered(Task):
    """Evaluates to the number of each sample, in batches and ranks of different sizes, also with weights of 0, 1, 2."""

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, Measured]:
        (numbers,) = batch
        return {"number": numbers, "weighted": (numbers, (numbers + 1) % 3)}


class AlwaysSynced(DdpEngine):
    """What accumulation costs without `no_sync`: the counter must see it."""

    def micro_step(self, *, boundary: bool) -> AbstractContextManager[None]:
        return nullcontext()


def build_engine(world: int, model: nn.Module) -> Engine:
    device = torch.device("cpu")
    if world == 1:
        return SingleEngine(model, device)
    return DdpEngine(model, device, ParallelSection(bucket_mb=0.004))


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def relative(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def windows(case: Case, world: int) -> list[Window]:
    """Two epochs, so that windows begin anew after a tail."""
    updates = 2 * -(-SAMPLES // case.global_batch)
    return list(
        windows_of_run(
            data_samples=SAMPLES,
            global_batch=case.global_batch,
            micro=case.micro,
            world_size=world,
            keep_tail=True,
            updates=updates,
        )
    )


def unsplit(task: Task, window: Window) -> tuple[Tensor, float]:
    """The gradient and the loss of a window as one batch on one rank."""
    whole = Window(**{**asdict(window), "micro": window.samples, "world_size": 1})
    model = task.model()
    engine = SingleEngine(model, torch.device("cpu"))
    ((_, share),) = loader(task, [whole], 0)
    loss = Accumulator(engine, task.loss, nullcontext()).accumulate(whole, share)
    return gradient(model), float(loss)


def loader(task: Task, of: list[Window], rank: int) -> WindowLoader:
    shares = shares_of_rank(of, rank, SAMPLES, seed=3)
    return WindowLoader(task, task.train_data(), shares, torch.device("cpu"), workers=0)


def measure(case: Case, rank: int, world: int, reduction: str) -> Result:
    task = Regression(reduction)
    engine = build_engine(world, task.model())
    accumulator = Accumulator(engine, task.loss, nullcontext())
    errors, loss_errors, naive_errors, steps, calls, sizes = [], [], [], [], [], []
    for window, share in loader(task, windows(case, world), rank):
        part = accumulator.accumulate(window, share)
        true_gradient, true_loss = unsplit(task, window)
        (loss,) = engine.sum_over_ranks(part.reshape(1).clone()).read()
        errors.append(relative(gradient(engine.bare_module), true_gradient))
        loss_errors.append(abs(loss - true_loss) / true_loss)
        naive_errors.append(relative(naive(task, share, world), true_gradient))
        reductions = engine.take_reductions()
        steps.append(sum(1 for micro_batch in share if micro_batch.samples))
        calls.append(reductions.calls)
        sizes.append(reductions.bytes)
        engine.bare_module.zero_grad(set_to_none=True)
    parameters = sum(parameter.numel() for parameter in engine.bare_module.parameters())
    return Result(
        error=max(errors),
        loss_error=max(loss_errors),
        naive_error=max(naive_errors),
        micro_steps=steps,
        calls=calls,
        bytes=sizes,
        calls_always_synced=always_synced(task, case, rank, world),
        buckets=buckets(engine),
        gradient_bytes=parameters * 8,
    )


def naive(task: Task, share: list[Any], world: int) -> Tensor:
    """The loop as people write it: mean losses over accumulation steps, averaged over ranks."""
    model = task.model()
    counted = [micro_batch for micro_batch in share if micro_batch.samples]
    for micro_batch in counted:
        inputs, targets = micro_batch.data
        (functional.mse_loss(model(inputs), targets) / len(counted)).backward()  # type: ignore[no-untyped-call]
    found = gradient(model) if counted else torch.zeros(sum(p.numel() for p in model.parameters())).double()
    if world > 1:
        dist.all_reduce(found)
    return found / world


def always_synced(task: Task, case: Case, rank: int, world: int) -> list[int]:
    if world == 1:
        return []
    even = [window for window in windows(case, world) if len({len(window.micro_batches(r)) for r in range(world)}) == 1]
    engine = AlwaysSynced(task.model(), torch.device("cpu"), ParallelSection(bucket_mb=0.004))
    calls = []
    for window, share in loader(task, even, rank):
        Accumulator(engine, task.loss, nullcontext()).accumulate(window, share)
        calls.append(len(engine._reduced))  # more than take_reductions() would let pass
        engine._reduced.clear()
    return calls


def buckets(engine: Engine) -> int:
    """How many buckets DDP says that it has, once it has rebuilt them after its first backward."""
    if not isinstance(engine, DdpEngine):
        return 0
    logging: Callable[[], dict[str, Any]] = engine._ddp._get_ddp_logging_data
    return len(str(logging()["rebuilt_bucket_sizes"]).split(","))


def evaluated(world: int, samples: int) -> dict[str, float]:
    """The means of the numbers of so many samples, as the ranks find them together."""
    engine = build_engine(world, Regression("mean").model())
    numbers = TensorDataset(torch.arange(samples, dtype=torch.float64))
    return evaluate(Numbered(), numbers, engine, nullcontext())


def main(out: Path) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    results: dict[str, Any] = {
        f"{case.name}/{reduction}": asdict(measure(case, rank, world, reduction))
        for case in cases(world)
        for reduction in ("mean", "sum")
    }
    results["evaluated"] = {str(samples): evaluated(world, samples) for samples in EVALUATED}
    gathered: list[Any] = [None] * world
    dist.all_gather_object(gathered, results)
    if rank == 0:
        out.write_text(json.dumps(gathered))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
