"""Worker of test_zero.py: DeepSpeed's stages on this world's ranks, in float32, against the batch that was not split.

torchrun --nproc-per-node=W -m tests.rank tests.distributed.zero OUT.json

The gradient that a stage steps on is read from SGD's momentum, of which next to nothing goes from one update to the
next; at a learning rate of zero the model stays as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from launcher.plan.batch import BatchPlan
from launcher.plan.deepspeed import deepspeed_config
from launcher.plan.stages import StagePlan
from launcher.recipe.schema import Recipe
from launcher.train.accumulation import Accumulation
from launcher.train.engines.deepspeed import DeepspeedEngine
from launcher.train.engines.parts import own_part
from launcher.train.finite import FiniteGuard
from launcher.train.task_losses import TaskLosses, loss_weights
from tests.distributed.engines import ENGINES
from tests.distributed.gradients import (
    EVALUATED,
    ITEMS,
    Case,
    Numbered,
    loader,
    make_task,
    relative,
    splits,
    unsplit,
)
from tests.distributed.kept import kept, whole
from tests.evaluations import evaluate

STAGES = (0, 1, 2, 3)
LAYOUTS = ("one", "own forwards")
MOST_STEPS = 7
BUCKET_MB = 0.004  # 1,048 elements, fewer than the largest parameter has
CLIP = 0.01
_IN_FLOAT64 = ENGINES["ddp"]
_IN_FLOAT32 = replace(_IN_FLOAT64, dtype=torch.float32)
_REDUCTIONS = ("all_reduce", "reduce", "reduce_scatter_tensor")


@dataclass(frozen=True)
class Found:
    """What was measured over the windows of a case at a stage, on rank 0.

    Attributes:
        error: largest relative difference of a window's gradient from that of the batch that was not split.
        norm_error: the same of the gradient's norm, as the step gives it.
        loss_error: largest relative difference of a loss of a window.
        steps: micro-steps of each window, of the busiest rank.
        calls: reductions of each window, as the engine reports them.
        seen: the same, as seen where they are issued.
        bytes: bytes handed to them, as the engine reports them.
        seen_bytes: the same, as seen where they are issued.
        gradient_bytes: bytes of one copy of the gradients; at stage 3 each parameter rounded up to equal parts.
    """

    error: float
    norm_error: float
    loss_error: float
    steps: list[int]
    calls: list[int]
    seen: list[int]
    bytes: list[int]
    seen_bytes: list[int]
    gradient_bytes: int


def zero_cases(world: int) -> list[Case]:
    return [Case(split, items, layout, "joint") for split, items, layout in product(splits(world), ITEMS, LAYOUTS)]


def recipe_of(stage: int, clip: float | None = None) -> Recipe:
    return Recipe.model_validate(
        {
            "parallel": {"engine": "deepspeed", "deepspeed": {"stage": stage}, "bucket_mb": BUCKET_MB},
            "train": {"max_grad_norm": clip},
        }
    )


def config_of(stage: int, most_steps: int, clip: float | None = None) -> dict[str, Any]:
    steps, world = (most_steps,), dist.get_world_size()
    batch = BatchPlan(
        global_=8, micro=8, accumulation=most_steps, world_size=world, micro_steps=steps, follows_world=False
    )
    stages = [StagePlan(global_=8, micro_steps=steps, first_update=0, updates=None, learning_rate_scale=1.0)]
    return deepspeed_config(recipe_of(stage, clip), batch, stages)


@contextmanager
def reductions_seen() -> Iterator[list[int]]:
    """Yields a list that grows by the bytes of every reduction of more than one number, where torch issues it."""
    issued: list[int] = []
    real: dict[str, Callable[..., Any]] = {name: getattr(dist, name) for name in _REDUCTIONS}

    def counting(name: str, *arguments: Any, **options: Any) -> Any:
        tensors = [each for each in (*arguments, *options.values()) if isinstance(each, Tensor)]
        largest = max(each.nbytes for each in tensors)
        if tensors[0].is_floating_point() and largest > 8:
            issued.append(largest)
        return real[name](*arguments, **options)

    for name in _REDUCTIONS:
        setattr(dist, name, partial(counting, name))
    try:
        yield issued
    finally:
        for name, function in real.items():
            setattr(dist, name, function)


def engine_of(model: nn.Module, stage: int, clip: float | None = None) -> tuple[DeepspeedEngine, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=1e-30)
    engine = DeepspeedEngine(model, torch.device("cpu"), config_of(stage, MOST_STEPS, clip))
    engine.hold(optimizer)
    return engine, optimizer


def stepped_gradient(engine: DeepspeedEngine, optimizer: torch.optim.Optimizer) -> Tensor | None:
    """The gradient of the last step as one vector, on rank 0."""
    tensors = whole(engine.optimizer_state(optimizer)).tensors
    if engine.rank:
        return None
    return torch.cat([tensors[f"{index}.momentum_buffer"].flatten() for index in range(len(tensors))])


def measure(
    case: Case, engine: DeepspeedEngine, optimizer: torch.optim.Optimizer, parts: int, issued: list[int]
) -> Found:
    world = engine.world_size
    truth, task = make_task(case, world, _IN_FLOAT64), make_task(case, world, _IN_FLOAT32)
    batches = loader(task, case.split.windows(world), engine)
    losses, weights = TaskLosses(task, task.section), loss_weights(task.section)
    filler = partial(batches.filler, case.split.micro)
    accumulation = Accumulation(engine, losses, weights, "joint", nullcontext(), lambda loss: loss, filler=filler)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    errors, norm_errors, loss_errors = list[float](), list[float](), list[float]()
    steps, calls, seen, sizes, seen_sizes = list[int](), list[int](), list[int](), list[int](), list[int]()
    for loaded in batches:
        if loaded.empty:
            continue
        true_gradient, true_losses = unsplit(truth, loaded.window)
        issued.clear()
        part = accumulation.accumulate(loaded)
        reductions = engine.reduce()
        seen.append(len(issued))
        seen_sizes.append(sum(issued))
        applied, square = engine.step(optimizer, scaler, None)
        assert applied
        found = dict(zip(weights, engine.reduce_over_ranks(part).read(), strict=True))
        found = found if task.section.losses else {"tokens": found["loss"]}
        (whole_square,) = engine.reduce_over_ranks(square.reshape(1)).read()
        gradient = stepped_gradient(engine, optimizer)
        errors.append(0.0 if gradient is None else relative(gradient.double(), true_gradient))
        norm_errors.append(abs(whole_square**0.5 / float(true_gradient.norm()) - 1))
        loss_errors.append(max(abs(found[name] - loss) / loss for name, loss in true_losses.items()))
        steps.append(loaded.window.most_steps)
        calls.append(reductions.calls)
        sizes.append(reductions.bytes)
    return Found(
        error=max(errors),
        norm_error=max(norm_errors),
        loss_error=max(loss_errors),
        steps=steps,
        calls=calls,
        seen=seen,
        bytes=sizes,
        seen_bytes=seen_sizes,
        gradient_bytes=gradient_bytes(truth.model(), parts),
    )


def gradient_bytes(model: nn.Module, parts: int) -> int:
    return sum(4 * parts * -(-parameter.numel() // parts) for parameter in model.parameters())


def clipped(stage: int, world: int) -> dict[str, float]:
    """The norm that a clipping step reports and the one that it stepped on, over the true norm."""
    case = Case(splits(world)[4], "samples", "one", "joint")
    truth, task = make_task(case, world, _IN_FLOAT64), make_task(case, world, _IN_FLOAT32)
    engine, optimizer = engine_of(task.model(), stage, CLIP)
    batches = loader(task, case.split.windows(world)[:1], engine)
    losses, weights = TaskLosses(task, task.section), loss_weights(task.section)
    filler = partial(batches.filler, case.split.micro)
    accumulation = Accumulation(engine, losses, weights, "joint", nullcontext(), lambda loss: loss, filler=filler)
    (loaded,) = batches
    accumulation.accumulate(loaded)
    engine.reduce()
    _, square = engine.step(optimizer, torch.amp.GradScaler("cpu", enabled=False), CLIP)
    (whole_square,) = engine.reduce_over_ranks(square.reshape(1)).read()
    gradient = stepped_gradient(engine, optimizer)
    true_norm = float(unsplit(truth, loaded.window)[0].norm())
    return {
        "true": true_norm,
        "reported": whole_square**0.5,
        "stepped": 0.0 if gradient is None else float(gradient.norm()),
    }


def evaluated(stage: int) -> dict[str, dict[str, float]]:
    """The means of the numbers of so many samples, by a model that ranks hold in parts and all must go through."""
    engine, _ = engine_of(nn.Linear(1, 1), stage)
    found = {}
    for samples in EVALUATED:
        numbers = TensorDataset(torch.arange(samples, dtype=torch.float64))
        found[str(samples)] = evaluate(WithForward(), numbers, engine)
    return found


def states(stage: int) -> dict[str, Any]:
    """What the ranks keep of a model with a tied, a frozen and an odd parameter is taken up by another, bit for bit."""

    def made(seed: int) -> tuple[DeepspeedEngine, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        model = nn.ModuleDict(
            {"a": nn.Linear(3, 5), "b": nn.Linear(3, 5), "n": nn.BatchNorm1d(5), "f": nn.Linear(5, 7)}
        )
        model["b"].weight = model["a"].weight
        model["f"].requires_grad_(False)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
        engine = DeepspeedEngine(model, torch.device("cpu"), config_of(stage, 1))
        engine.hold(optimizer)
        return engine, optimizer

    def forward(model: Any) -> Tensor:
        total: Tensor = (model["f"](model["n"](model["a"](inputs))).sum(1) + model["b"](inputs).sum(1)).square().sum()
        return total

    def step(engine: DeepspeedEngine, optimizer: torch.optim.Optimizer) -> None:
        engine.micro_step(forward, boundary=True)
        engine.reduce()
        engine.step(optimizer, torch.amp.GradScaler("cpu", enabled=False), None)

    def put_together(engine: DeepspeedEngine, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        return {
            f"{what} {name}": tensor
            for what, state in (("model", engine.model_state()), ("optimizer", engine.optimizer_state(optimizer)))
            for name, tensor in whole(state).tensors.items()
        }

    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(dist.get_rank()))
    one, other = made(0), made(1)
    padded = poison_padding(one[0].model)
    FiniteGuard("stop", True).before_keeping(one[0].model, 1, one[0].gather)
    step(*one)
    before, strange = put_together(*one), put_together(*other)
    with kept(one[0].model_state()) as model, kept(one[0].optimizer_state(one[1])) as optimizer:
        other[0].load_model_state(model)
        other[0].load_optimizer_state(other[1], optimizer)
    taken = put_together(*other)
    step(*one)
    step(*other)
    after, theirs = put_together(*one), put_together(*other)
    return {
        "names": sorted(before),
        "padded": sum(one[0].gather(padded)),
        "strange": [name for name, tensor in strange.items() if torch.equal(tensor, before[name])],
        "taken": all(torch.equal(tensor, taken[name]) for name, tensor in before.items()),
        "alike": all(torch.equal(tensor, theirs[name]) for name, tensor in after.items()),
        "still": [name for name, tensor in after.items() if torch.equal(tensor, before[name])],
    }


def poison_padding(model: nn.Module) -> int:
    """Stage 3 fills up parts with what happens to be in memory, which may be anything; to how many elements it did."""
    poisoned = 0
    for partition, part in ((getattr(p, "ds_tensor", p), own_part(p)) for p in model.parameters()):
        partition.detach().flatten()[part.numel() :] = float("nan")
        poisoned += partition.numel() - part.numel()
    return poisoned


def left_out(stage: int) -> list[str]:
    """What is said of two updates, of which the second leaves out one weight of eight.

    Each has one element, which stage 3 fills up to as many as there are ranks: the seven that are left have more than
    all eight had before they were filled up.
    """
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(8)))
    engine, optimizer = engine_of(model, stage)
    said = []
    for layers in (8, 7):
        engine.micro_step(partial(_first, layers), boundary=True)
        try:
            engine.reduce()
        except RuntimeError as error:
            said.append(str(error))
        else:
            said.append("")
            engine.step(optimizer, torch.amp.GradScaler("cpu", enabled=False), None)
    return said


def _first(layers: int, model: Any) -> Tensor:
    """What the first layers make of a one."""
    total: Tensor = model[:layers](torch.ones(1, 1)).sum()
    return total


class WithForward(Numbered):
    """Evaluates by a forward pass."""

    def evaluate(self, model: nn.Module, batch: Any) -> Any:
        model(batch[0].float().unsqueeze(1))
        return super().evaluate(model, batch)


def main(out: Path) -> None:
    world = int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    results: dict[str, Any] = {}
    with reductions_seen() as issued:
        for stage in STAGES:
            for layout in LAYOUTS:
                every = [case for case in zero_cases(world) if case.layout == layout]
                held = engine_of(make_task(every[0], world, _IN_FLOAT32).model(), stage)
                for case in every:
                    found = measure(case, *held, parts=world if stage == 3 else 1, issued=issued)
                    results[f"{stage}/{case.name}"] = asdict(found)
            results[f"{stage}/clipped"] = clipped(stage, world)
            results[f"{stage}/evaluated"] = evaluated(stage)
            results[f"{stage}/states"] = states(stage)
            results[f"{stage}/left out"] = left_out(stage)
    if dist.get_rank() == 0:
        out.write_text(json.dumps(results))
