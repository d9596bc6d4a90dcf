"""What will hurt in a plan that can run: each warning says what, how much, and the cure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from launcher.plan.batch import BatchPlan, efficiency, nearest_multiples, smallest_micro_batch
from launcher.plan.learning_rate import LearningRatePlan
from launcher.plan.length import LengthPlan
from launcher.plan.stages import StagePlan
from launcher.recipe.schema import Recipe


def plan_warnings(
    recipe: Recipe,
    batch: BatchPlan,
    stages: Sequence[StagePlan],
    length: LengthPlan,
    rate: LearningRatePlan,
    batchnorm: Sequence[str],
    unread_task: bool,
) -> Iterator[str]:
    """The warnings of a plan, the worst first.

    Args:
        recipe: the recipe.
        batch: its worked-out batch.
        stages: its global batches in order, the last one that of `batch`.
        length: how long the run is.
        rate: its learning rate.
        batchnorm: places where the task's code names BatchNorm layers.
        unread_task: whether only running the task's code would tell how it writes its losses.
    """
    yield from _batchnorm(recipe, batch, stages, length.tail_samples, batchnorm)
    yield from _heads_unseen(recipe, unread_task)
    yield from _uneven(batch, recipe.train.exact_ranks)
    yield from _uneven_stages(batch, stages[:-1])
    yield from _script_with_another_window(recipe, batch)
    yield from _dropped_tail(recipe, stages, length)
    yield from _follows_world(batch)
    yield from _schedule_without_end(stages, length.updates)
    yield from _long_warmup(rate)
    yield from _no_checkpoints(recipe)


def compiler_warnings(recipe: Recipe, device: str) -> Iterator[str]:
    """What PyTorch's compiler was seen to do wrong.

    Args:
        recipe: the recipe.
        device: what the run is on.
    """
    if recipe.train.compile and device == "cpu":
        cure = "compare the first losses with those of train.compile=false"
        if recipe.task:
            cure = "before its first update the run compares gradients, and ends where they differ"
        yield (
            "train.compile: on a CPU the compiler of torch 2.13 was seen to make gradients of zero, without an error, "
            f"in front of MaxPool2d; {cure}."
        )


def _batchnorm(
    recipe: Recipe, batch: BatchPlan, stages: Sequence[StagePlan], tail_samples: int | None, uses: Sequence[str]
) -> Iterator[str]:
    if not uses:
        return
    where = ", ".join(uses)
    if recipe.parallel.sync_batchnorm:
        over = "one micro-step of all ranks"
        cure = "use GroupNorm or LayerNorm for results that do not depend on the split"
    else:
        over = "one micro-batch"
        cure = "use GroupNorm or LayerNorm, or parallel.sync_batchnorm=true on GPUs"
    yield (
        f"BatchNorm ({where}) takes its statistics from {over}, not from the global batch, so accumulation "
        f"does not equal one big batch; {cure}."
    )
    of_windows = {batch.micro, *(smallest_micro_batch(stage.global_, batch.micro) for stage in stages)}
    of_tail = tail_samples if recipe.batch.tail == "keep" else None
    if 1 in of_windows or (of_tail and smallest_micro_batch(of_tail, batch.micro) == 1):
        what = "the last micro-batch of an epoch has 1 sample"
        if 1 in of_windows:
            what = "batch.micro is 1" if batch.micro == 1 else "the last micro-batch of a window has 1 sample"
        yield f"{what}: BatchNorm has no statistics of a single sample; choose batch.micro so that none has 1."


def _heads_unseen(recipe: Recipe, unread_task: bool) -> Iterator[str]:
    if unread_task and recipe.task and recipe.multitask.backward == "shared":
        name = recipe.task.entry.rpartition(":")[2]
        yield (
            f"multitask.backward=shared needs {name}.trunk and {name}.heads; whether they are written shows only when "
            "its code runs, and the run ends at its start if they are not."
        )


def _uneven(batch: BatchPlan, virtual_ranks: int | None) -> Iterator[str]:
    if batch.idle_ranks:
        fits = max(1, -(-batch.global_ // batch.world_size))
        yield (
            f"{batch.idle_ranks} of {batch.world_size} ranks have no samples: the window has only "
            f"{sum(batch.micro_steps)} micro-batches; set batch.micro={fits} or use fewer ranks."
        )
    elif min(batch.micro_steps) == batch.accumulation:
        return
    elif virtual_ranks is not None and virtual_ranks % batch.world_size:
        each = virtual_ranks // batch.world_size
        yield (
            f"ranks have {min(batch.micro_steps)} to {batch.accumulation} micro-steps, as each stands for {each} or "
            f"{each + 1} of {virtual_ranks} virtual ranks: {1 - batch.efficiency:.1%} of their time is spent waiting; "
            f"a number of ranks that divides {virtual_ranks} is even."
        )
    else:
        near = " or ".join(map(str, nearest_multiples(batch.global_, batch.micro * batch.world_size)))
        yield (
            f"ranks have {min(batch.micro_steps)} or {batch.accumulation} micro-steps: {1 - batch.efficiency:.1%} of "
            f"their time is spent waiting; batch.global={near} divides evenly."
        )


def _uneven_stages(batch: BatchPlan, stages: Sequence[StagePlan]) -> Iterator[str]:
    """One warning for all stages before the last: of the one whose ranks wait the most."""
    uneven = [stage for stage in stages if min(stage.micro_steps) != max(stage.micro_steps)]
    if not uneven:
        return

    def at_work(stage: StagePlan) -> float:
        return efficiency(stage.global_, batch.micro, stage.micro_steps)

    worst = min(uneven, key=at_work)
    idle, fewest = worst.micro_steps.count(0), min(worst.micro_steps)
    what = f"ranks have {fewest} or {max(worst.micro_steps)} micro-steps"
    if idle:
        what = f"{idle} of {batch.world_size} ranks have no samples"
    near = " or ".join(map(str, nearest_multiples(worst.global_, batch.micro * batch.world_size)))
    others = f" (uneven stages in all: {len(uneven)})" if len(uneven) > 1 else ""
    yield (
        f"batch.schedule: {what} in the stage of global {worst.global_}, where {1 - at_work(worst):.1%} of all time is "
        f"spent waiting{others}; {near} divides evenly."
    )


def _script_with_another_window(recipe: Recipe, batch: BatchPlan) -> Iterator[str]:
    window = batch.accumulation * batch.micro * batch.world_size
    if recipe.script and window != batch.global_:
        near = " or ".join(map(str, nearest_multiples(batch.global_, batch.micro * batch.world_size)))
        yield (
            f"a script that takes {batch.accumulation} micro-steps of {batch.micro} on {batch.world_size} ranks alike "
            f"sees {window} samples per update, not {batch.global_}; batch.global={near} is what it would see, and an "
            "Accumulator.from_env with its sampler() sees what is planned."
        )


def _dropped_tail(recipe: Recipe, stages: Sequence[StagePlan], length: LengthPlan) -> Iterator[str]:
    total = length.data_samples
    if recipe.batch.tail == "keep" or total is None:
        return
    left_out = {stage.global_: total % stage.global_ for stage in stages if total % stage.global_}
    if len(stages) == 1 and left_out:
        (tail,) = left_out.values()
        yield f"batch.tail=drop leaves out {tail} of {total} samples in each epoch; keep trains on all of them."
    elif left_out:
        said = ", ".join(f"{tail} with windows of {size}" for size, tail in left_out.items())
        yield f"batch.tail=drop leaves out, of the {total} samples of an epoch, {said}; keep trains on all of them."


def _follows_world(batch: BatchPlan) -> Iterator[str]:
    if batch.follows_world:
        yield (
            f"batch.global is not given: it is {batch.global_} on {batch.world_size} ranks and changes with their "
            f"number; set batch.global={batch.global_} to keep it."
        )


def _schedule_without_end(stages: Sequence[StagePlan], updates: int | None) -> Iterator[str]:
    last = stages[-1]
    if updates is not None and last.first_update >= updates:
        yield (
            f"batch.schedule takes {last.first_update} updates and the run has {updates}: batch.global {last.global_} "
            "is never reached."
        )


def _long_warmup(rate: LearningRatePlan) -> Iterator[str]:
    if rate.updates is not None and rate.warmup_updates >= rate.updates:
        yield (
            f"schedule.warmup takes {rate.warmup_updates} updates and the run has {rate.updates}: it never leaves the "
            "warm-up."
        )


def _no_checkpoints(recipe: Recipe) -> Iterator[str]:
    if recipe.task and not recipe.checkpoint.wanted:
        yield "checkpoint: without every and minutes nothing is saved, and a run that is stopped begins again."
