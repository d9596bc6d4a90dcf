"""Everything that a rank trains with, put together from the plan and the task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from launcher.errors import Mistake, RequestError
from launcher.plan.deepspeed import deepspeed_config
from launcher.plan.planner import Plan
from launcher.recipe.schema import Recipe
from launcher.train.accumulation import Accumulation, LoadedWindow
from launcher.train.compiling import compile_model
from launcher.train.engines.base import Engine
from launcher.train.engines.ddp import DdpEngine
from launcher.train.engines.deepspeed import DeepspeedEngine
from launcher.train.engines.deferred import DeferredEngine
from launcher.train.engines.exact import ExactEngine
from launcher.train.engines.single import SingleEngine
from launcher.train.engines.wide_gradients import widen
from launcher.train.engines.zero_start import refuse_float64
from launcher.train.finite import FiniteGuard
from launcher.train.guard import ParameterGuard
from launcher.train.loader import WindowLoader, shares_of_rank
from launcher.train.optimizer import build_optimizer
from launcher.train.progress import Progress
from launcher.train.randomness import seed_everything
from launcher.train.run_windows import RunWindows
from launcher.train.snapshot import Numbers, optimizer_kind
from launcher.train.step_results import StepResults
from launcher.train.stepping import Stepper
from launcher.train.task import SampleSource, Task
from launcher.train.task_losses import TaskLosses, loss_weights


@dataclass(frozen=True)
class Job:
    """One rank's share of a training run.

    Attributes:
        plan: the plan, with the length of the data.
        task: the user's task.
        engine: holds the ranks together.
        weights: name → weight of each loss.
        accumulation: takes a window through forward and backward.
        stepper: steps once per window.
        optimizer_kind: whose memory the state of the optimizer is.
        results: makes results of what updates measured.
        guard: watches that the ranks hold the same parameters.
        finite: watches that numbers are finite.
        windows: the windows with this rank's micro-batches.
        go_on: lets `windows` be those of another plan from an update (from 0) on.
        eval_data: what to evaluate on, if anything.
        precision: the context of a forward pass.
        should_stop: whether this rank was asked to stop.
        progress: how far this rank is.
    """

    plan: Plan
    task: Task
    engine: Engine
    weights: Mapping[str, float]
    accumulation: Accumulation
    stepper: Stepper
    optimizer_kind: Numbers
    results: StepResults
    guard: ParameterGuard
    finite: FiniteGuard
    windows: Iterable[LoadedWindow]
    go_on: Callable[[Plan, int], None]
    eval_data: SampleSource | None
    precision: AbstractContextManager[Any]
    should_stop: Callable[[], bool]
    progress: Progress


_ITEMS_UNDER_SYNC_BATCHNORM = Mistake(
    "parallel.sync_batchnorm",
    "all ranks must go through every forward pass together, and a micro-batch of which Task.items counts none has none",
    "Set it to false, and use GroupNorm or LayerNorm",
)


_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Materials:
    """The user's own objects, built once in each rank, with the same seed in all of them."""

    task: Task
    model: nn.Module
    train_data: SampleSource
    eval_data: SampleSource | None

    @property
    def parameters(self) -> int:
        """Trainable parameters of the model."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)


def build_materials(make_task: Callable[[], Task], seed: int) -> Materials:
    """The task, its model and its data, the same on every rank whatever they draw at random.

    Args:
        make_task: makes the task.
        seed: the recipe's seed.
    """
    seed_everything(seed, rank=None)
    task = make_task()
    return Materials(task, task.model(), task.train_data(), task.eval_data())


def build_job(
    plan: Plan,
    materials: Materials,
    rank: int,
    device: torch.device,
    should_stop: Callable[[], bool],
    first_update: int = 0,
    progress: Progress | None = None,
) -> Job:
    """Put a rank's job together; with more than one rank, the process group must be up.

    Args:
        plan: the plan, with the facts of the materials.
        materials: the user's objects.
        rank: this rank.
        device: its device.
        should_stop: whether this rank was asked to stop.
        first_update: the update to begin with, from 0.
        progress: is kept up to date with how far this rank is; None makes one.

    Raises:
        RequestError: the recipe and the task do not go together.
    """
    progress = progress or Progress()
    recipe, task, data = plan.recipe, materials.task, materials.train_data
    engine: Engine
    scaler: torch.amp.GradScaler | None = None
    if recipe.parallel.engine == "deepspeed":
        refuse_float64(materials.model)
        config = deepspeed_config(recipe, plan.batch, plan.ahead)
        engine = zero = DeepspeedEngine(materials.model.to(device), device, config, recipe.parallel.timeout)
        scaler = zero.scaler
    else:
        engine = build_engine(recipe, materials.model, plan.topology.world_size, device, plan.topology.nodes)
    if recipe.train.compile:
        compile_model(engine.model)
    seed_everything(recipe.train.seed, rank)
    optimizer = build_optimizer(recipe.optimizer, task.parameter_groups(engine.model), engine.model, plan.learning_rate)
    kind = optimizer_kind(optimizer, engine.model)
    engine.hold(optimizer)
    half = recipe.train.precision == "fp16"
    skips = recipe.guard.non_finite == "skip"
    stepper = Stepper(engine, optimizer, plan.learning_rate, recipe.train.max_grad_norm, half, skips, scaler)
    losses, weights, precision = (
        TaskLosses(task, recipe.multitask),
        loss_weights(recipe.multitask),
        autocast(recipe, device),
    )
    if recipe.parallel.sync_batchnorm and losses.count_items:
        raise RequestError([_ITEMS_UNDER_SYNC_BATCHNORM])
    exact = recipe.train.exact_ranks is not None

    def load(of: Plan, first: int) -> WindowLoader:
        shares = shares_of_rank(of.windows(first), rank, len(data), recipe.train.seed)
        return WindowLoader(losses, task, data, shares, engine, recipe.data.workers, recipe.train.seed, apart=exact)

    windows = RunWindows(load, plan, first_update)
    return Job(
        plan=plan,
        task=task,
        engine=engine,
        weights=weights,
        accumulation=Accumulation(
            engine,
            losses,
            weights,
            recipe.multitask.backward,
            precision,
            stepper.scale,
            progress,
            seed=recipe.train.seed if exact else None,
            filler=partial(windows.loader.filler, plan.batch.micro),
        ),
        stepper=stepper,
        optimizer_kind=kind,
        results=StepResults(weights, len(data), losses.count_items),
        guard=ParameterGuard(engine, recipe.guard.every),
        finite=FiniteGuard(recipe.guard.non_finite, half),
        windows=windows,
        go_on=windows.go_on,
        eval_data=materials.eval_data,
        precision=precision,
        should_stop=should_stop,
        progress=progress,
    )


def build_engine(recipe: Recipe, model: nn.Module, world_size: int, device: torch.device, machines: int = 1) -> Engine:
    """What holds the ranks together; with more than one, the process group must be up.

    Args:
        recipe: the recipe.
        model: the model, which goes to the device.
        world_size: number of ranks.
        device: the device of this rank.
        machines: that the ranks are on, as many on each.

    Raises:
        RequestError: the engine cannot hold this model.
    """
    if recipe.parallel.engine == "fsdp":
        return _sharding_engine(recipe, model, world_size, device, machines)
    model = model.to(device)
    wide = recipe.train.accumulate_dtype is not None and widen(model)
    if recipe.train.exact_ranks is not None:
        return ExactEngine(model, device, recipe.parallel, world_size, recipe.train.exact_ranks)
    if world_size == 1:
        return SingleEngine(model, device)
    if recipe.parallel.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch's
    if recipe.parallel.engine == "accelerate":
        from launcher.train.engines.accelerate import AccelerateEngine  # takes a second to import

        return AccelerateEngine(model, device, recipe.parallel)
    # DDP reduces in the format of the parameters, whatever that of the gradients (torch 2.13 raises an error); and
    # where a window may have to be taken again, ranks agree before anything is reduced.
    if recipe.multitask.backward == "joint" and not wide and not recipe.batch.halves:
        return DdpEngine(model, device, recipe.parallel)
    return DeferredEngine(model, device, recipe.parallel)


def _sharding_engine(recipe: Recipe, model: nn.Module, world_size: int, device: torch.device, machines: int) -> Engine:
    from launcher.train.engines.fsdp import FsdpEngine  # imports what other engines do not need
    from launcher.train.engines.sharding import blocks_of, compute_again_in_backward

    settings = recipe.parallel.fsdp
    if world_size > 1:
        copies = machines if settings.replicas == "nodes" else 1
        return FsdpEngine(model, device, settings, copies, _HALF.get(recipe.train.precision), recipe.parallel.timeout)
    blocks = blocks_of(model, settings.wrap)  # one rank has nobody to share with
    if settings.checkpoint_activations:
        compute_again_in_backward(blocks)
    return SingleEngine(model.to(device), device)


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    """The context of a forward pass, which may be entered again and again."""
    kind = _HALF.get(recipe.train.precision)
    return nullcontext() if kind is None else torch.autocast(device.type, dtype=kind)
