"""Worker of test_sharded.py: the engine fsdp on this world's ranks, in float64, against the batch that was not split.

torchrun --nproc-per-node=W -m tests.rank tests.distributed.sharded OUT.json
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from launcher.errors import RequestError
from launcher.recipe.parallel_section import FsdpSection
from launcher.train.accumulation import MicroBatchData
from launcher.train.engines.fsdp import FsdpEngine
from launcher.train.engines.gradients import gradients_of
from launcher.train.engines.parts import own_part
from launcher.train.engines.single import SingleEngine
from launcher.train.guard import DivergedError, ParameterGuard
from launcher.train.snapshot import Tensors
from launcher.train.task import Measured
from tests.distributed.engines import CPU, ENGINES, filled_up, whole
from tests.distributed.gradients import (
    EVALUATED,
    Case,
    Numbered,
    Tokens,
    accumulation,
    loader,
    make_task,
    relative,
    splits,
    unsplit,
)
from tests.distributed.kept import kept
from tests.distributed.kept import whole as put_together_of
from tests.evaluations import evaluate

SUBJECT = ENGINES["fsdp"]
HARDEST = (("tokens", "one"), ("none on a rank", "own forwards"))  # items and layouts, where ranks are uneven
MAX_NORM = 0.5


@dataclass(frozen=True)
class Kind:
    """A way of sharing out: the recipe's `parallel.fsdp`, and copies of the model."""

    name: str
    settings: FsdpSection
    copies: int = 1


DEFERRED = Kind("deferred", FsdpSection(wrap=("Sequential",)))
ALWAYS = Kind("every micro-step", FsdpSection(wrap=("Sequential",), defer_reduction=False))
KINDS = {
    2: [DEFERRED, ALWAYS],
    3: [
        DEFERRED,
        ALWAYS,
        Kind("whole model", FsdpSection()),
        Kind("heads too, computed again", FsdpSection(wrap=("Linear",), checkpoint_activations=True)),
        Kind("kept after forward", FsdpSection(wrap=("Linear",), reshard_after_forward=False)),
    ],
    4: [replace(kind, copies=2) for kind in (DEFERRED, ALWAYS)],
}


@dataclass(frozen=True)
class Result:
    """What was measured over the windows of a case.

    Attributes:
        error: largest relative difference of a window's gradient from that of the batch that was not split.
        norm_error: the same of its norm, as the parts of the ranks add up to it.
        clipped_error: the same of the clipped gradient.
        micro_steps: of all ranks alike, in each window.
        reduced: reduce-scatters of each window and their bytes, as the engine reports them.
        gathered: the same of the all-gathers.
        seen: the two, as they were issued.
        blocks: that are gathered by themselves.
        groups: these, and what is left of the model.
        padded_bytes: of the whole model, each parameter's rows filled up to a multiple of the ranks that share it.
        parts_error: relative difference of the squares of the ranks' own gradients from what they are.
    """

    error: float
    norm_error: float
    clipped_error: float
    micro_steps: list[int]
    reduced: list[list[int]]
    gathered: list[list[int]]
    seen: list[list[list[int]]]
    blocks: int
    groups: int
    padded_bytes: int
    parts_error: float


def cases(world: int) -> list[Case]:
    (uneven,) = (split for split in splits(world) if split.name == "uneven ranks")
    return [Case(uneven, items, layout, "joint") for items, layout in HARDEST]


def refused(kind: Kind, case: Case) -> bool:
    """Whether a block runs more than once in a micro-step, on what another one has made."""
    return kind.settings.wrap == ("Linear",) and case.layout == "own forwards"


ALL = [
    (world, kind, case)
    for world, of_world in KINDS.items()
    for kind in of_world
    for case in cases(world)
    if not refused(kind, case)
]


@contextmanager
def collectives() -> Iterator[dict[str, list[int]]]:
    """Yields the bytes of every reduce-scatter and all-gather of the default backend that is issued."""
    issued: dict[str, list[int]] = {"reduce_scatter": [], "all_gather": []}
    names = {
        name: kind
        for kind in issued
        for name in (f"{kind}_single", f"{kind}_tensor", f"{kind}_into_tensor")
        if hasattr(dist, name)
    }
    real = {name: getattr(dist, name) for name in names}

    def counting(name: str, *arguments: Any, **options: Any) -> Any:
        tensors = [value for value in (*arguments, *options.values()) if isinstance(value, Tensor)]
        issued[names[name]].append(max(tensor.nbytes for tensor in tensors))
        return real[name](*arguments, **options)

    for name in names:
        setattr(dist, name, partial(counting, name))
    try:
        yield issued
    finally:
        for name, function in real.items():
            setattr(dist, name, function)


def added(value: Tensor) -> float:
    """The sum over all ranks."""
    total = value.clone().double()
    dist.all_reduce(total)
    return float(total)


def no_filler() -> MicroBatchData:
    raise AssertionError("one rank has nothing to fill up")


def own_square(task: Tokens, engine: FsdpEngine, loaded: Any) -> float:
    """The squared norm of this rank's own part of the window's gradient, by plain torch."""
    alone = SingleEngine(task.model(), CPU)
    accumulation(alone, task, no_filler).accumulate(loaded)
    return sum(float(p.grad.square().sum()) for p in alone.model.parameters() if p.grad is not None)


def measure(case: Case, kind: Kind, world: int) -> Result:
    task = make_task(case, world, SUBJECT)
    model = task.model()
    shards = world // kind.copies
    padded = sum(p.nbytes for p in model.parameters()) + filled_up(model, shards)
    engine = FsdpEngine(model, CPU, kind.settings, kind.copies)
    engine.watch_parts(True)
    windows = loader(task, case.split.windows(world), engine)
    runner = accumulation(engine, task, partial(windows.filler, case.split.micro))
    errors, norms, clipped, parts, steps, reduced, gathered, seen = [], [], [], [0.0], [], [], [], []
    for loaded in windows:
        if loaded.empty:
            continue
        true, _ = unsplit(task, loaded.window)
        with collectives() as issued:
            runner.accumulate(loaded)
            counted = engine.reduce()
        steps.append(loaded.window.most_steps)
        reduced.append([counted.calls, counted.bytes])
        gathered.append([counted.gathers, counted.gathered_bytes])
        seen.append([[len(issued[of]), sum(issued[of])] for of in ("reduce_scatter", "all_gather")])
        if engine.sees_parts:
            own = own_square(task, engine, loaded)
            found = sum(float(square) for square in engine.part_squares())
            parts.append(abs(found - own) / own if own else found)
        errors.append(relative(SUBJECT.gradient(engine), true))
        norms.append(abs(added(engine.clip(None)) ** 0.5 / float(true.norm()) - 1))
        engine.clip(MAX_NORM)
        clipped.append(relative(SUBJECT.gradient(engine), true * min(1.0, MAX_NORM / (float(true.norm()) + 1e-6))))
        engine.model.zero_grad(set_to_none=True)
    return Result(
        error=max(errors),
        norm_error=max(norms),
        clipped_error=max(clipped),
        micro_steps=steps,
        reduced=reduced,
        gathered=gathered,
        seen=seen,
        blocks=len(engine._modules) - 1,
        groups=len(engine._modules) - (kind.settings.wrap == ("Linear",)),  # then nothing is left for the root
        padded_bytes=padded,
        parts_error=max(parts),
    )


class Counting(Numbered):
    """The same numbers, as a model makes them: all ranks must be in each of its forward passes."""

    def evaluate(self, model: nn.Module, batch: Any) -> Mapping[str, Measured]:  # type: ignore[override]  # narrower
        (numbers,) = batch
        return super().evaluate(model, (model(numbers[:, None])[:, 0].round(),))


def evaluated(samples: int) -> dict[str, float]:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 3, bias=False), nn.BatchNorm1d(3)).double()
    for name, parameter in model.named_parameters():
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    if dist.get_rank():
        for buffer in model.buffers():
            buffer.zero_()  # those of rank 0 count
    engine = FsdpEngine(model, CPU, FsdpSection(wrap=("Linear",)))
    numbers = TensorDataset(torch.arange(samples, dtype=torch.float64))
    means = evaluate(Counting(), numbers, engine)
    assert not any(engine.reduce_over_ranks(torch.zeros(1)).read())  # the ranks have gone through as many forwards
    return dict(means)


def not_finite(world: int) -> dict[str, Any]:
    """What the ranks find of a gradient that is not finite in the last rank's part alone."""
    model = nn.Linear(4, 2 * world)
    engine = FsdpEngine(model, CPU, FsdpSection())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    found: dict[str, Any] = {}
    for bad in (False, True):
        engine.micro_step(lambda model: scaler.scale(model(torch.ones(1, 4)).sum()), boundary=True)
        engine.reduce()
        gradient = model.weight.grad
        assert gradient is not None
        if bad and engine.shard == engine.shards - 1:
            own_part(gradient)[-1, -1] = torch.inf
        before = [own_part(p).clone() for p in model.parameters()]
        found[f"finite {bad}"] = engine.finite()
        found[f"applied {bad}"], _ = engine.step(optimizer, scaler, 1.0)
        moved = [bool((own_part(p) != b).any()) for p, b in zip(model.parameters(), before, strict=True)]
        found[f"moved {bad}"] = any(moved)
        found[f"scale {bad}"] = scaler.get_scale()
    return found


def unused() -> str:
    """What is said of a parameter that no forward pass uses."""
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "not": nn.Linear(2, 2)})
    engine = FsdpEngine(model, CPU, FsdpSection())
    engine.micro_step(lambda model: model["used"](torch.ones(1, 2)).sum(), boundary=True)  # type: ignore[index]
    try:
        engine.reduce()
    except RuntimeError as error:
        return str(error)
    return ""


def swapped(*, deferred: bool) -> dict[str, Any]:
    """What is said, and how far the gradient is off, when ranks use two experts in turn, each beginning with another.

    Both are of one shape: a reduction that takes the gradients there are would add those of one to those of the other.
    """
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]).double()
    alone = SingleEngine(deepcopy(model), CPU)
    engine = FsdpEngine(model, CPU, FsdpSection(defer_reduction=deferred))
    for step in (0, 1):
        used = [partial(_expert, (rank + step) % 2, rank) for rank in range(engine.world_size)]
        for forward in used:
            alone.micro_step(forward, boundary=False)
        try:
            engine.micro_step(used[engine.rank], boundary=step == 1)
        except RuntimeError as error:
            return {"said": str(error)}
    engine.reduce()
    true = torch.cat([gradient.flatten() for gradient in gradients_of(alone.model)])
    return {"said": "", "error": relative(SUBJECT.gradient(engine), true)}


def _expert(index: int, rank: int, model: Any) -> Tensor:
    """What one expert makes of the data of a rank."""
    total: Tensor = model[index](torch.full((1, 2), rank + 1.0, dtype=torch.float64)).square().sum()
    return total


class Pair(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.second(self.first(inputs).tanh())
        return outputs


def tied() -> dict[str, Any]:
    """How far the gradient is off of layers that share a weight in one place; what is said where it is cut in two."""
    found: dict[str, Any] = {}
    for where, wrap in (("in no block", ("Tanh",)), ("in one block", ("Pair",)), ("cut", ("Linear",))):
        torch.manual_seed(0)
        model = nn.Sequential(Pair(), nn.Tanh(), Pair()).double()
        alone = SingleEngine(deepcopy(model), CPU)
        for deferred in (True, False):
            try:
                engine = FsdpEngine(deepcopy(model), CPU, FsdpSection(wrap=wrap, defer_reduction=deferred))
            except RequestError as error:
                found[where] = str(error)
                break
            alone.model.zero_grad()
            for rank in range(engine.world_size):
                alone.micro_step(partial(_of_rank, rank), boundary=True)
            engine.micro_step(partial(_of_rank, engine.rank), boundary=True)
            engine.reduce()
            true = torch.cat([gradient.flatten() for gradient in gradients_of(alone.model)])
            found[f"{where}, {deferred}"] = relative(SUBJECT.gradient(engine), true)
    return found


def _of_rank(rank: int, model: Any) -> Tensor:
    """What a model makes of the data of a rank."""
    total: Tensor = model(torch.full((1, 3), rank + 1.0, dtype=torch.float64)).square().sum()
    return total


def used_twice() -> list[str]:
    """What is said of a block that runs twice: first on the data, then on what another block has made."""
    said = []
    for second in (False, True):
        model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
        engine = FsdpEngine(model, CPU, FsdpSection(wrap=("Linear",)))
        try:
            engine.micro_step(partial(_twice, second), boundary=True)
            said.append("")
        except RuntimeError as error:
            said.append(str(error))
    return said


def _twice(on_its_own: bool, model: Any) -> Tensor:
    data = torch.ones(1, 2)
    first = model(data)
    total: Tensor = first.sum() + model(first if on_its_own else data).sum()
    return total


def half() -> dict[str, Any]:
    """Two micro-steps in bf16 beside the same in fp32, from the same parameters."""
    inputs = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    gradients, counted = [], []
    for kind in (None, torch.bfloat16):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 12))
        engine = FsdpEngine(model, CPU, FsdpSection(wrap=("Linear",)), gathered_as=kind)
        precision = nullcontext() if kind is None else torch.autocast("cpu", dtype=kind)
        for boundary in (False, True):
            engine.micro_step(partial(_square, inputs, precision), boundary=boundary)
        counted.append(engine.reduce())
        gradients.append(SUBJECT.gradient(engine))
    whole_ones, halves = counted
    return {
        "error": relative(gradients[1], gradients[0]),
        "kept as": {str(p.dtype) for p in model.parameters()} == {str(gradients[1].dtype)} == {"torch.float32"},
        "reduced": halves.bytes / whole_ones.bytes,
        "gathered": halves.gathered_bytes / whole_ones.gathered_bytes,
    }


def _square(inputs: Tensor, precision: AbstractContextManager[Any], model: nn.Module) -> Tensor:
    with precision:
        total: Tensor = model(inputs).float().square().sum()
    return total


def guarded(copies: int) -> str:
    """What the guard says when one rank's part has changed."""
    model = nn.Sequential(linear := nn.Linear(3, 8))
    engine = FsdpEngine(model, CPU, FsdpSection(), copies)
    guard = ParameterGuard(engine, 1)
    guard.before_keeping(1)
    if dist.get_rank() == 3 % engine.world_size:
        own_part(linear.weight)[0, 0] += 1
    try:
        guard.before_keeping(2)
    except DivergedError as diverged:
        return str(diverged)
    return ""


def different_models() -> float:
    """How far the model that is shared out is from that of rank 0, if each rank has built another."""
    torch.manual_seed(dist.get_rank())
    model = nn.Linear(3, 5)
    mine = model.weight.detach().clone()
    FsdpEngine(model, CPU, FsdpSection())
    dist.broadcast(mine, 0)
    return float((whole(model.weight) - mine).abs().max())


def states(copies: int) -> dict[str, Any]:
    """Each rank keeps its rows, the tied weight once, and another model and optimizer take it up bit for bit."""

    def made(seed: int) -> tuple[FsdpEngine, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        model = nn.ModuleDict({"a": nn.Linear(3, 5), "b": nn.Linear(3, 5), "n": nn.BatchNorm1d(5)})
        model["b"].weight = model["a"].weight
        engine = FsdpEngine(model, CPU, FsdpSection(wrap=("BatchNorm1d",)), copies)
        return engine, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    def forward(model: Any) -> Tensor:
        total: Tensor = (model["n"](model["a"](inputs)) + model["b"](inputs)).square().sum()
        return total

    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(dist.get_rank()))
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def steps(engine: FsdpEngine, optimizer: torch.optim.Optimizer) -> None:
        for boundary in (False, True, False, True):
            engine.micro_step(forward, boundary=boundary)
            if boundary:
                engine.reduce()
                engine.step(optimizer, scaler, 1.0)

    def put_together(engine: FsdpEngine, optimizer: torch.optim.Optimizer) -> tuple[Tensors, Tensors]:
        return put_together_of(engine.model_state()), put_together_of(engine.optimizer_state(optimizer))

    one, other = made(0), made(1)
    steps(*one)
    before = put_together(*one)
    with kept(one[0].model_state()) as model, kept(one[0].optimizer_state(one[1])) as optimizer:
        other[0].load_model_state(model)
        other[0].load_optimizer_state(other[1], optimizer)
    for pair in (one, other):
        steps(*pair)
    after = [put_together(*pair) for pair in (one, other)]
    alike = all(
        mine.tensors.keys() == theirs.tensors.keys()
        and all(torch.equal(mine.tensors[name], theirs.tensors[name]) for name in mine.tensors)
        for mine, theirs in zip(*after, strict=True)
    )
    return {
        "alike": alike,
        "moved": not torch.equal(after[0][0].tensors["a.weight"], before[0].tensors["a.weight"]),
        "names": sorted(before[0].tensors),
        "same": before[0].numbers["same"],
        "remembered": len(before[1].tensors),
    }


def main(out: Path) -> None:
    world = int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    measured = {f"{kind.name}/{case.name}": asdict(measure(case, kind, world)) for of, kind, case in ALL if of == world}
    results: dict[str, Any] = {
        "measured": measured,
        "evaluated": {str(samples): evaluated(samples) for samples in EVALUATED},
        "not finite": not_finite(world),
        "unused": unused(),
        "swapped": {"deferred": swapped(deferred=True), "every micro-step": swapped(deferred=False)},
        "tied": tied(),
        "used twice": used_twice(),
        "half": half(),
        "guarded": guarded(2 if world == 4 else 1),
        "different models": different_models(),
        "states": states(2 if world == 4 else 1),
    }
    gathered: list[Any] = [None] * world
    dist.all_gather_object(gathered, results)
    if dist.get_rank() == 0:
        out.write_text(json.dumps(gathered))
    dist.destroy_process_group()
