"""Worker of test_gradients.py: every case of an engine on this world's ranks, against the batch that was not split.

torchrun --nproc-per-node=W -m tests.rank tests.distributed.gradients OUT.json ENGINE
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from launcher.plan.order import sample_order
from launcher.plan.planner import make_plan
from launcher.plan.topology import Topology
from launcher.plan.windows import Window, windows_of_run
from launcher.recipe.schema import Backward, MultitaskSection
from launcher.train.accumulation import Accumulation, LoadedWindow, MicroBatchData
from launcher.train.engines.base import Engine, Forward
from launcher.train.engines.ddp import DdpEngine
from launcher.train.loader import WindowLoader, shares_of_rank
from launcher.train.task import Loss, Measured, Task
from launcher.train.task_losses import TaskLosses, loss_weights
from tests.distributed.engines import CPU, ENGINES, PARALLEL, Subject
from tests.evaluations import evaluate

SAMPLES = 101
TOKENS = 10  # of the longest sample
SEED = 3
EVALUATED = (1, 2, 101, 600)  # fewer than ranks, and more than one batch of a rank
WEIGHTS = {"pixels": 1.0, "tokens": 0.5, "labels": 2.0}
ITEMS = ("samples", "tokens", "none on a rank")
LAYOUTS = ("one", "one sum", "own forwards", "trunk")
EDITIONS: dict[str, tuple[Backward, ...]] = {
    "one": ("joint",),
    "one sum": ("joint",),
    "own forwards": ("joint", "sequential"),
    "trunk": ("joint", "sequential", "shared"),
}


@dataclass(frozen=True)
class Split:
    """One way of splitting windows: samples per update and per micro-step."""

    name: str
    global_batch: int
    micro: int

    def windows(self, world: int, virtual_ranks: int | None = None) -> list[Window]:
        """The first two windows of an epoch, its tail, and the first window after it."""
        updates = 1 + -(-SAMPLES // self.global_batch)
        every = list(
            windows_of_run(
                data_samples=SAMPLES,
                global_batch=self.global_batch,
                micro=self.micro,
                world_size=world,
                keep_tail=True,
                updates=updates,
                virtual_ranks=virtual_ranks,
            )
        )
        return [every[update] for update in sorted({0, 1, updates - 2, updates - 1})]


@dataclass(frozen=True)
class Case:
    """A split, what items are, how the task computes its losses, and which way they go backward."""

    split: Split
    items: str
    layout: str
    edition: Backward

    @property
    def name(self) -> str:
        return f"{self.split.name}/{self.items}/{self.layout}/{self.edition}"


@dataclass(frozen=True)
class Result:
    """What was measured over the windows of a case.

    Attributes:
        error: largest relative difference of a window's gradient from that of the batch that was not split.
        loss_error: largest relative difference of a loss of a window.
        naive_error: the same as `error` for `loss / accumulation_steps` averaged over ranks.
        empty: windows without any items.
        micro_steps: of this rank, in each window.
        calls: gradient collectives per window, as the engine reports them.
        seen: the same, as seen where they are issued.
        bytes: bytes handed to them per window, as the engine reports them.
        calls_always_synced: `calls` when no micro-step is held back.
        expected_calls: what `calls` should be, by the engine's own account of its buckets.
        planned_bytes: what the plan says of `bytes`, of each window.
    """

    error: float
    loss_error: float
    naive_error: float
    empty: int
    micro_steps: list[int]
    calls: list[int]
    seen: list[int]
    bytes: list[int]
    calls_always_synced: list[int]
    expected_calls: int
    planned_bytes: list[int]


def splits(world: int) -> list[Split]:
    """Even splits with K = 1, 4 and 7, uneven ones, windows smaller than the world; 101 samples leave a tail."""
    return [
        Split("K=1", 8 * world, 8),
        Split("K=4", 16 * world, 4),
        Split("K=7", 14 * world, 2),
        Split("uneven ranks", 4 * world + 1, 4),
        Split("uneven micro-batch", 50, 32),
        Split("prime", 37, 5),
        Split("fewer samples than ranks", 2, 2),
        Split("one sample at a time", 3, 1),
    ]


def cases(world: int, engine: str) -> list[Case]:
    return [
        Case(split, items, layout, edition)
        for split, items, layout in product(splits(world), ITEMS, LAYOUTS)
        for edition in EDITIONS[layout]
        if edition in ENGINES[engine].editions and split.name in (ENGINES[engine].splits or [split.name])
    ]


class Net(nn.Module):
    """A trunk and three heads over the tokens of a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 30), nn.Tanh())
        self.heads = nn.ModuleDict({name: nn.Linear(30, 3) for name in WEIGHTS})


def net(model: nn.Module) -> Any:
    """The model, never a wrapper."""
    assert type(model) is Net
    return model


class Tokens(Task):
    """Samples of ten tokens, of which some count; three losses, or the one over tokens.

    Args:
        case: what items are, and how the losses are computed.
        bare: samples without any item.
        dtype: of the model and the data.
    """

    def __init__(self, case: Case, bare: Iterable[int], dtype: torch.dtype) -> None:
        self.case = case
        self.dtype = dtype
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(SAMPLES, TOKENS, 6, generator=generator, dtype=torch.float64)
        targets = torch.randn(SAMPLES, TOKENS, 3, generator=generator, dtype=torch.float64) * 3
        counted = torch.randint(1, TOKENS + 1, (SAMPLES,), generator=generator)
        counted[::3] = 1  # 90 % masked
        if case.items == "samples":
            counted[:] = TOKENS
        labelled = torch.rand(SAMPLES, generator=generator) < 0.5
        for index in bare:
            counted[index] = 0
            labelled[index] = False
        mask = torch.arange(TOKENS) < counted[:, None]
        self.data = TensorDataset(inputs.to(dtype), targets.to(dtype), mask, labelled)

    @property
    def section(self) -> MultitaskSection:
        several = self.case.layout in ("own forwards", "trunk")
        return MultitaskSection(losses=WEIGHTS if several else {}, backward=self.case.edition)

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = Net().to(self.dtype)
        if not self.section.losses:
            del net(model).heads["pixels"], net(model).heads["labels"]
        return model

    def train_data(self) -> TensorDataset:
        return self.data

    def items(self, batch: Any) -> int | Mapping[str, int] | None:
        if self.case.items == "samples" and not self.section.losses:
            return None
        _, _, mask, labelled = batch
        tokens = int(mask.sum())
        if not self.section.losses:
            return tokens
        pixels = {} if self.case.items == "samples" else {"pixels": int(mask.any(dim=1).sum())}
        return {"labels": int(labelled.sum()), "tokens": tokens, **pixels}

    def loss(self, model: nn.Module, batch: Any) -> Tensor | Loss | Iterable[Loss]:
        if self.section.losses:
            return self.several(model, (net(model).trunk(batch[0]) for _ in WEIGHTS), batch)
        per_item = self.per_item("tokens", model, net(model).trunk(batch[0]), batch)
        if self.case.layout == "one":
            return per_item.mean()
        return Loss(per_item.sum() / (TOKENS if self.case.items == "samples" else 1), "sum")

    def several(self, model: nn.Module, features: Iterator[Tensor], batch: Any) -> Iterator[Loss]:
        for name in WEIGHTS:
            yield Loss(self.per_item(name, model, next(features), batch).mean(), name=name)

    def per_item(self, name: str, model: nn.Module, features: Tensor, batch: Any) -> Tensor:
        """The loss of each item, a vector."""
        _, targets, mask, labelled = batch
        square: Tensor = (net(model).heads[name](features) - targets).square().mean(dim=2)
        if name == "tokens":
            return square[mask]
        counts = labelled if name == "labels" else mask.any(dim=1)
        return square.mean(dim=1)[counts]


class Trunked(Tokens):
    """The same losses on one forward pass of the trunk, and no other way."""

    loss = Task.loss

    def trunk(self, model: nn.Module, batch: Any) -> Any:
        return {"features": net(model).trunk(batch[0])}

    def heads(self, model: nn.Module, features: Any, batch: Any) -> Iterable[Loss]:
        return self.several(model, (features["features"] for _ in WEIGHTS), batch)


class Numbered(Task):
    """Evaluates to the number of each sample, in batches and ranks of different sizes, also with weights of 0, 1, 2."""

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, Measured]:
        (numbers,) = batch
        return {"number": numbers, "weighted": (numbers, (numbers + 1) % 3)}


class AlwaysSynced(DdpEngine):
    """What accumulation costs without `no_sync`: the counter must see it."""

    def micro_step(self, forward: Forward, *, boundary: bool) -> None:
        super().micro_step(forward, boundary=True)


def make_task(case: Case, world: int, subject: Subject) -> Tokens:
    """The task, whose last rank has no items in the first window, and no rank has any in the second."""
    bare: set[int] = set()
    if case.items == "none on a rank":
        first, *more = case.split.windows(world, subject.virtual_ranks)
        parts = first.micro_batches(world - 1) if world > 1 else first.micro_batches(0)[-1:]
        spans = [(part.first, part.first + part.samples) for part in parts]
        spans += [(window.first, window.first + window.samples) for window in more[:1]]
        for low, high in spans:
            bare |= set(sample_order(range(low, high), SAMPLES, SEED, 0).tolist())
    return (Trunked if case.layout == "trunk" else Tokens)(case, bare, subject.dtype)


def accumulation(engine: Engine, task: Tokens, filler: Callable[[], MicroBatchData]) -> Accumulation:
    section = task.section
    losses, weights = TaskLosses(task, section), loss_weights(section)
    return Accumulation(engine, losses, weights, section.backward, nullcontext(), lambda loss: loss, filler=filler)


def loader(task: Tokens, windows: list[Window], engine: Engine) -> WindowLoader:
    shares = shares_of_rank(windows, engine.rank, SAMPLES, SEED)
    return WindowLoader(TaskLosses(task, task.section), task, task.train_data(), shares, engine, workers=0)


def gradient(model: nn.Module) -> Tensor:
    """One vector of all gradients of a model that is in nobody's hands; a parameter without one counts as zeros."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


def relative(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def unsplit(task: Tokens, window: Window) -> tuple[Tensor, dict[str, float]]:
    """The gradient and the losses of a window as one batch, by the definition and plain torch."""
    model = task.model()
    order = sample_order(range(window.first, window.first + window.samples), SAMPLES, SEED, window.epoch)
    batch = [tensor[torch.from_numpy(order)] for tensor in task.data.tensors]
    total = torch.zeros((), dtype=torch.float64)
    losses = {}
    for name, weight in WEIGHTS.items() if task.section.losses else [("tokens", 1.0)]:
        per_item = task.per_item(name, model, net(model).trunk(batch[0]), batch)
        if per_item.numel():
            losses[name] = float(per_item.sum() / per_item.numel())
            total = total + weight * per_item.sum() / per_item.numel()
    if total.requires_grad:
        total.backward()  # type: ignore[no-untyped-call]
    return gradient(model), losses


@contextmanager
def collectives(names: Iterable[str]) -> Iterator[list[str]]:
    """Yields a list that grows by the name of every collective call with floating-point numbers that is issued."""
    issued: list[str] = []
    real = {name: getattr(dist, name) for name in names}

    def counting(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            given = (*arguments, *options.values())
            tensors = [tensor for one in given for tensor in (one if isinstance(one, list) else [one])]
            if any(isinstance(tensor, Tensor) and tensor.is_floating_point() for tensor in tensors):
                issued.append(name)
            return real[name](*arguments, **options)

        return call

    try:
        for name in real:
            setattr(dist, name, counting(name))
        yield issued
    finally:
        for name, function in real.items():
            setattr(dist, name, function)


def planned_bytes(subject: Subject, case: Case, window: Window, parameters: int) -> int:
    """What the plan of a batch like this window says of its bytes, which are those of fp32 there."""
    recipe = subject.full_recipe(parameters, {"global": window.samples, "micro": case.split.micro})
    reduction = make_plan(recipe, Topology(nodes=1, nproc_per_node=window.world_size, device="cpu")).reduction
    assert reduction is not None
    return reduction.bytes_per_update * subject.dtype.itemsize // 4


def measure(case: Case, world: int, subject: Subject) -> Result:
    task = make_task(case, world, subject)
    engine = subject.engine(world, task.model())
    parameters = sum(parameter.numel() for parameter in task.model().parameters())
    windows = loader(task, case.split.windows(world, subject.virtual_ranks), engine)
    runner = accumulation(engine, task, partial(windows.filler, case.split.micro))
    errors, loss_errors, naive_errors, steps, calls, seen, sizes, planned, empty = [], [], [], [], [], [], [], [], 0
    for loaded in windows:
        true_gradient, true_losses = unsplit(task, loaded.window)
        steps.append(len(loaded.micro_batches))
        if loaded.empty:
            empty += 1
            assert not true_losses
            continue
        with collectives(subject.collectives) as issued:
            part = runner.accumulate(loaded)
            reductions = engine.reduce()
        found = dict(zip(loss_weights(task.section), engine.reduce_over_ranks(part).read(), strict=True))
        found = found if task.section.losses else {"tokens": found["loss"]}
        errors.append(relative(subject.gradient(engine), true_gradient))
        loss_errors.append(max(abs(found[name] - loss) / loss for name, loss in true_losses.items()))
        if subject is ENGINES["ddp"] and case.layout in ("one", "own forwards"):
            naive_errors.append(relative(naive(task, loaded, world), true_gradient))
        calls.append(reductions.calls)
        seen.append(len(issued))
        sizes.append(reductions.bytes)
        filling = subject.filling(engine) if world > 1 else 0
        planned.append(planned_bytes(subject, case, loaded.window, parameters) + filling)
        engine.model.zero_grad(set_to_none=True)
    return Result(
        error=max(errors),
        loss_error=max(loss_errors),
        naive_error=max(naive_errors, key=lambda error: (error != error, error), default=0.0),  # nan is the largest
        empty=empty,
        micro_steps=steps,
        calls=calls,
        seen=seen,
        bytes=sizes,
        calls_always_synced=always_synced(case, world) if subject is ENGINES["ddp"] else [],
        expected_calls=subject.calls(engine) if world > 1 else 0,
        planned_bytes=planned,
    )


def naive(task: Tokens, loaded: LoadedWindow, world: int) -> Tensor:
    """The loop as people write it: mean losses over accumulation steps, averaged over ranks."""
    model = task.model()
    for micro_batch in loaded.micro_batches:
        batch = micro_batch.data
        losses = [
            weight * task.per_item(name, model, net(model).trunk(batch[0]), batch).mean()
            for name, weight in (WEIGHTS if task.section.losses else {"tokens": 1.0}).items()
        ]
        (torch.stack(losses).sum() / len(loaded.micro_batches)).backward()  # type: ignore[no-untyped-call]
    found = gradient(model)
    if world > 1:
        dist.all_reduce(found)
    return found / world


def always_synced(case: Case, world: int) -> list[int]:
    if world == 1 or (case.items, case.layout, case.edition) != ("samples", "one", "joint"):
        return []
    every = case.split.windows(world)
    even = [window for window in every if len({len(window.micro_batches(rank)) for rank in range(world)}) == 1]
    task = make_task(case, world, ENGINES["ddp"])
    engine = AlwaysSynced(task.model(), CPU, PARALLEL)
    calls = []
    windows = loader(task, even, engine)
    for loaded in windows:
        accumulation(engine, task, partial(windows.filler, case.split.micro)).accumulate(loaded)
        reduced, _ = engine._buckets.take()  # more than reduce() would let pass
        calls.append(len(reduced))
    return calls


def evaluated(world: int, samples: int, subject: Subject) -> dict[str, float]:
    """The means of the numbers of so many samples, as the ranks find them together."""
    engine = subject.engine(world, nn.Sequential(nn.Linear(1, 1)))  # one that FSDP can wrap
    numbers = TensorDataset(torch.arange(samples, dtype=torch.float64))
    return evaluate(Numbered(), numbers, engine)


def main(out: Path, engine: str) -> None:
    world, subject = int(os.environ["WORLD_SIZE"]), ENGINES[engine]
    dist.init_process_group("gloo")
    results: dict[str, Any] = {case.name: asdict(measure(case, world, subject)) for case in cases(world, engine)}
    results["evaluated"] = {str(samples): evaluated(world, samples, subject) for samples in EVALUATED}
    gathered: list[Any] = [None] * world
    dist.all_gather_object(gathered, results)
    if dist.get_rank() == 0:
        out.write_text(json.dumps(gathered))
    dist.destroy_process_group()
