"""Worker of test_own_loop.py: loops with an Accumulator, in float64, against batches that were not split.

torchrun --nproc-per-node=3 -m tests.rank tests.distributed.own_loop OUT.json

Two of the ranks, in a process group of their own, are a world of two; one alone needs none of this.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.profiler import profile
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from launcher import Accumulator
from launcher.plan.order import sample_order
from launcher.plan.planner import make_plan
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.train.own_loop.window import OpenWindow
from tests.distributed.refused_loops import messages

TOKENS = 6  # of the longest sample
LOSSES = {"token": 1.0, "label": 0.5}
MICRO_STEPS = 3
MAX_NORM = 0.4
PLANNED = 53  # samples of the planned run, in windows of 20


class Batch(NamedTuple):
    inputs: Tensor
    targets: Tensor
    mask: Tensor
    labelled: Tensor


@dataclass(frozen=True)
class World:
    """Ranks that train together.

    Attributes:
        rank: this one.
        size: how many there are.
        group: their process group; None for one rank alone.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None


Loaders = Callable[[int, int], list[int]]
"""The sizes of a rank's batches, from the rank and the number of ranks."""


@dataclass(frozen=True)
class Case:
    """A loop.

    Attributes:
        name: what it is called.
        sizes: of the batches of each rank.
        items: what its losses are a mean over: samples, or tokens.
        bare: whether the samples of a batch have no item, from the rank, the number of ranks and the batch.
        several: whether it takes two losses backward, one after the other.
        reduction: of the loss.
        spoiled: the window whose gradients overflow; with it, losses are scaled.
        hook: a communication hook that averages as DDP does.
        counted: whether gradient all-reduces are counted, by torch's profiler, which takes its time.
    """

    name: str
    sizes: Loaders
    items: str = "samples"
    bare: Callable[[int, int, int], bool] = lambda rank, world, batch: False
    several: bool = False
    reduction: str = "mean"
    spoiled: int | None = None
    hook: Any = None
    counted: bool = False


def even(rank: int, world: int) -> list[int]:
    return [4] * 6


def tail(rank: int, world: int) -> list[int]:
    return [4] * 7 + [1]


def uneven(rank: int, world: int) -> list[int]:
    """Rank 0 ends first; the last rank goes on alone, and its last window is short."""
    return [2 + rank, 5, 1, 3 + rank, 4][: 2 + rank] + [3] * (4 * rank)


def none_on_first(rank: int, world: int) -> list[int]:
    return [3, 4, 2, 1, 2, 2, 4, 5] if rank or world == 1 else []


def bare_windows(rank: int, world: int, batch: int) -> bool:
    """The last rank has no item in the first window, and no rank has one in the second; in the third, one batch."""
    return (batch < MICRO_STEPS and rank == world - 1 > 0) or 3 <= batch < 6 or batch == 8


def long(rank: int, world: int) -> list[int]:
    """The last batch, which is the last window, has no label."""
    return [4] * 10


CASES = [
    Case("even", even),
    Case("tail", tail, reduction="sum"),
    Case("uneven", uneven, counted=True),
    Case("none on a rank", none_on_first),
    Case("tokens", tail, items="tokens"),
    Case("tokens, without items", long, items="tokens", bare=bare_windows, counted=True),
    Case("two losses, uneven", uneven, items="tokens", several=True, counted=True),
    Case("two losses, none on a rank", none_on_first, items="tokens", several=True),
    Case("two losses, without items", long, items="tokens", bare=bare_windows, several=True),
    Case("scaled", uneven, items="tokens", spoiled=1),
    Case("averaging hook", uneven, hook=default_hooks.allreduce_hook),
]


@dataclass
class Result:
    """What was measured.

    Attributes:
        error: largest relative difference of a window's gradient from that of the batch that was not split.
        drift: relative difference of the parameters in the end.
        loss_error: largest relative difference of a window's mean losses.
        norm_error: the same of the gradient's norm.
        naive_error: the same as `error` for `loss / micro_steps` averaged over ranks.
        windows: how many there were.
        micro_steps: of this rank, in each window.
        applied: updates that were applied.
        scheduled: steps that the scheduler took.
        reductions: gradient all-reduces of each window, as the profiler saw them, if it did.
        buckets: how many DDP has, or the deferred reduction.
        scale: of the losses, in the end.
    """

    error: float = 0.0
    drift: float = 0.0
    loss_error: float = 0.0
    norm_error: float = 0.0
    naive_error: float = 0.0
    windows: int = 0
    micro_steps: list[int] = field(default_factory=list)
    applied: int = 0
    scheduled: int = 0
    reductions: list[int] = field(default_factory=list)
    buckets: int = 0
    scale: float = 1.0


class Net(nn.Module):
    """A trunk with a buffer, which DDP exchanges in forward passes, and two heads."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 20), nn.Tanh(), nn.Linear(20, 12), nn.Tanh())
        self.token, self.label = nn.Linear(12, 2), nn.Linear(12, 1)
        self.register_buffer("scale", torch.full((), 0.5, dtype=torch.float64))

    def forward(self, inputs: Tensor, several: bool) -> dict[str, Tensor]:
        features = self.trunk(inputs) * self.scale
        found = {"token": self.token(features)}
        return {**found, "label": self.label(features)} if several else found


def make_net(several: bool) -> Net:
    torch.manual_seed(0)
    model = Net().double()
    if not several:
        del model.label
    return model


def make_batch(seed: int, samples: int, bare: bool = False, unlabelled: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, TOKENS, 5, generator=generator, dtype=torch.float64)
    targets = torch.randn(samples, TOKENS, 2, generator=generator, dtype=torch.float64)
    counted = torch.randint(0 if bare else 1, 1 if bare else TOKENS + 1, (samples,), generator=generator)
    labelled = (torch.rand(samples, generator=generator) < 0.4) & (not bare and not unlabelled)
    return Batch(inputs, targets, torch.arange(TOKENS) < counted[:, None], labelled)


def batches_of(case: Case, rank: int, world: int) -> list[Batch]:
    return [
        make_batch(100 * rank + number, size, case.bare(rank, world, number), unlabelled=number == 9)
        for number, size in enumerate(case.sizes(rank, world))
    ]


def per_item(case: Case, found: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """The loss of each item, a vector for each loss."""
    square = (found["token"] - batch.targets).square().mean(dim=2)
    losses = {"token": square[batch.mask] if case.items == "tokens" else square.mean(dim=1)}
    if case.several:
        losses["label"] = found["label"].square().mean(dim=(1, 2))[batch.labelled]
    return losses


def items(case: Case, batch: Batch) -> int | dict[str, int]:
    tokens = int(batch.mask.sum())
    return {"label": int(batch.labelled.sum()), "token": tokens} if case.several else tokens


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


def relative(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def joined(batches: list[Batch]) -> Batch:
    return Batch(*(torch.cat(column) for column in zip(*batches, strict=True)))


class Reference:
    """The same training in plain torch, on whole windows as one batch.

    Args:
        case: the loop.
        rate: the learning rate of the first update.
        decay: by which it is multiplied after each.
    """

    def __init__(self, case: Case, rate: float = 0.01, decay: float = 0.8) -> None:
        self.case = case
        self.model = make_net(case.several)
        self.optimizer, self.scheduler = optimizer_of(self.model, rate, decay)
        self.losses: dict[str, float] = {}

    def backward(self, batches: list[Batch]) -> bool:
        """The gradient and the losses of the window; False where it has no items."""
        self.model.zero_grad()
        self.losses = {}
        batch = joined(batches)
        total = torch.zeros((), dtype=torch.float64)
        for name, values in per_item(self.case, self.model(batch.inputs, self.case.several), batch).items():
            if values.numel():
                mean = values.sum() / values.numel()
                self.losses[name] = float(mean.detach())
                total = total + mean * (LOSSES[name] if self.case.several else 1.0)
        if not self.losses:
            return False
        total.backward()  # type: ignore[no-untyped-call]
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return True

    def step(self) -> float:
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        self.scheduler.step()
        return float(norm)

    def naive(self, of_ranks: list[list[Batch]]) -> Tensor:
        """The loop as people write it: mean losses over accumulation steps, averaged over ranks."""
        self.model.zero_grad()
        for batch in (batch for batches in of_ranks for batch in batches):
            losses = per_item(self.case, self.model(batch.inputs, False), batch)
            (losses["token"].mean() / MICRO_STEPS).backward()  # type: ignore[no-untyped-call]
        return gradient(self.model) / len(of_ranks)


def optimizer_of(
    model: nn.Module, rate: float = 0.01, decay: float = 0.8
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1)
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)


def wrapped(model: Net, world: World, hook: Any = None) -> nn.Module:
    """In DDP with several small buckets, where there are several ranks."""
    if world.group is None:
        return model
    ddp = DistributedDataParallel(model, bucket_cap_mb=0.001, process_group=world.group)
    if hook is not None:
        ddp.register_comm_hook(world.group, hook)
    return ddp


def measure(case: Case, world: World) -> Result:
    model = make_net(case.several)
    called = wrapped(model, world, case.hook)
    optimizer, scheduler = optimizer_of(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=case.spoiled is not None)
    accumulator = Accumulator(
        called, optimizer, MICRO_STEPS, scheduler, MAX_NORM, LOSSES if case.several else None, scaler
    )
    of_ranks = [windows_of(batches_of(case, rank, world.size)) for rank in range(world.size)]
    reference, result = Reference(case), Result()
    count = None if case.items == "samples" else partial(items, case)
    for window in accumulator.windows(iter(batches_of(case, world.rank, world.size)), count):
        of_window = [of_rank[result.windows] if result.windows < len(of_rank) else [] for of_rank in of_ranks]
        whole = [batch for batches in of_window for batch in batches]
        compare_naive(case, reference, of_window, result)
        with profile(case.counted, use_kineto=False, record_shapes=True) as seen:  # Kineto takes seconds to begin
            run_window(case, called, window, spoiled=result.windows == case.spoiled)
        has_items = reference.backward(whole)
        compare_window(window, model, reference, scaler.get_scale(), result, skip=result.windows == case.spoiled)
        if case.counted:
            result.reductions.append(gradient_reductions(seen))
        update = accumulator.step()
        assert window.empty != has_items
        assert gradient(model).count_nonzero() == 0
        if update.applied:
            norm = reference.step()
            assert update.grad_norm is not None
            result.norm_error = max(result.norm_error, abs(float(update.grad_norm) / norm - 1))
        result.applied += update.applied
        result.micro_steps.append(len(window))
        result.windows += 1
    result.scheduled = scheduler.last_epoch
    result.drift = relative(parameters(model), parameters(reference.model))
    result.buckets = buckets(accumulator, called)
    result.scale = scaler.get_scale()
    return result


def windows_of(batches: list[Batch]) -> list[list[Batch]]:
    return [batches[first : first + MICRO_STEPS] for first in range(0, len(batches), MICRO_STEPS)]


def run_window(case: Case, model: nn.Module, window: OpenWindow, spoiled: bool) -> None:
    """What a user writes."""
    for batch in window:
        losses = per_item(case, model(batch.inputs, case.several), batch)
        if spoiled:
            losses["token"] = losses["token"] * float("inf")
        if case.several:
            window.backward(losses["token"].mean(), name="token", retain_graph=True)
            window.backward(losses["label"].mean(), name="label")
        elif case.reduction == "sum":
            window.backward(losses["token"].sum(), reduction="sum")
        else:
            window.backward(losses["token"].mean())


def compare_naive(case: Case, reference: Reference, of_ranks: list[list[Batch]], result: Result) -> None:
    if case.several or case.bare(0, 1, 3):
        return
    found = reference.naive(of_ranks)
    reference.backward([batch for batches in of_ranks for batch in batches])
    result.naive_error = max(result.naive_error, relative(found, gradient(reference.model)))


def compare_window(
    window: OpenWindow, model: nn.Module, reference: Reference, scale: float, result: Result, skip: bool
) -> None:
    losses = window.mean_losses()
    if skip or window.empty:
        return
    result.error = max(result.error, relative(gradient(model) / scale, gradient(reference.model)))
    found = dict(losses) if reference.case.several else {"token": losses["loss"]}
    errors = [abs(found[name] / loss - 1) for name, loss in reference.losses.items()]
    result.loss_error = max(result.loss_error, *errors)


def gradient_reductions(seen: profile) -> int:
    """All-reduces of more numbers than there are counts and flags."""
    shapes = [event.input_shapes[0] for event in seen.function_events or [] if event.name == "gloo:all_reduce"]
    return sum(shape[0] > 16 for shape in shapes if shape)


def buckets(accumulator: Accumulator, model: nn.Module) -> int:
    if not isinstance(model, DistributedDataParallel):
        return 0
    deferred = getattr(accumulator._sync, "_reduction", None)
    if deferred is not None:
        return len(deferred.buckets)
    logging: dict[str, Any] = model._get_ddp_logging_data()  # type: ignore[no-untyped-call]
    return len(str(logging["rebuilt_bucket_sizes"]).split(","))


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def measure_plan(folder: Path, world: World, *, even_ranks: bool) -> dict[str, Any]:
    """A loop that follows the plan of a launch: its parameters after three epochs, against those of whole windows."""
    case = Case("planned", even)
    batch = {"global": 8 * world.size, "micro": 4} if even_ranks else {"global": 20, "micro": 3}
    recipe = Recipe.model_validate(
        {
            "name": "planned",
            "script": {"path": "train.py"},
            "batch": batch,
            "train": {"epochs": 3, "seed": 5},
            "optimizer": {"lr": 0.02},
        }
    )
    plan = make_plan(recipe, Topology(nodes=1, nproc_per_node=world.size, device="cpu"))
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.to_json())
    data = make_batch(7, PLANNED)
    model = make_net(several=False)
    called = wrapped(model, world)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    with patch.dict(os.environ, LAUNCHER_RUN_DIR=str(folder)):
        accumulator = Accumulator.from_env(called, optimizer, samples=PLANNED, max_grad_norm=MAX_NORM)
    assert accumulator.plan is not None
    reference, error = Reference(case, rate=0.02, decay=1.0), 0.0
    loader: DataLoader[Any] = DataLoader(TensorDataset(*data), batch_sampler=accumulator.sampler())
    for planned, window in zip(accumulator.plan.windows(), accumulator.windows(loader), strict=True):
        order = sample_order(range(planned.first, planned.first + planned.samples), PLANNED, 5, planned.epoch)
        reference.backward([Batch(*(column[torch.from_numpy(order)] for column in data))])
        for inputs in window:
            window.backward(per_item(case, called(inputs[0], False), Batch(*inputs))["token"].mean())
        error = max(error, relative(gradient(model), gradient(reference.model)))
        accumulator.step()
        reference.step()
    return {"error": error, "drift": relative(parameters(model), parameters(reference.model))}


def measure_all(folder: Path, world: World) -> dict[str, Any]:
    """Every case, and the loops that follow a plan.

    Args:
        folder: where the plans are written.
        world: the ranks; all of them measure the same.
    """
    results: dict[str, Any] = {case.name: asdict(measure(case, world)) for case in CASES}
    own = folder / f"{world.rank} of {world.size}"
    results["planned"] = measure_plan(own / "uneven", world, even_ranks=False)
    results["planned, even"] = measure_plan(own / "even", world, even_ranks=True)
    return results


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    pair, everyone = dist.new_group([0, 1]), dist.group.WORLD
    results = {"2": measure_all(out.parent, World(rank, 2, pair)) if rank < 2 else {}}
    results["3"] = measure_all(out.parent, World(rank, 3, everyone))
    results["refused"] = messages()
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, results)
    if rank == 0:
        out.write_text(json.dumps(gathered))
    dist.destroy_process_group()
