"""What will hurt in a plan that can run: each warning says what, how much, and the cure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from launcher.plan.batch import BatchPlan, nearest_multiples
from launcher.plan.learning_rate import LearningRatePlan
from launcher.recipe.schema import Recipe


def plan_warnings(
    recipe: Recipe,
    batch: BatchPlan,
    rate: LearningRatePlan,
    tail_samples: int | None,
    batchnorm: Sequence[str],
) -> Iterator[str]:
    """The warnings of a plan, the worst first.

    Args:
        recipe: the recipe.
        batch: its worked-out batch.
        rate: its learning rate.
        tail_samples: samples of the short last window of an epoch, if known.
        batchnorm: places where the task's code names BatchNorm layers.
    """
    yield from _batchnorm(recipe, batch, tail_samples, batchnorm)
    yield from _uneven(batch)
    yield from _script_with_another_window(recipe, batch)
    yield from _dropped_tail(recipe, tail_samples)
    yield from _follows_world(batch)
    yield from _long_warmup(rate)
    yield from _no_checkpoints(recipe)


def _batchnorm(recipe: Recipe, batch: BatchPlan, tail_samples: int | None, uses: Sequence[str]) -> Iterator[str]:
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
    sizes = {batch.micro, batch.smallest_micro_batch}
    if tail_samples and recipe.batch.tail == "keep":
        sizes.add(tail_samples % batch.micro or min(batch.micro, tail_samples))
    if 1 in sizes:
        what = "the last micro-batch of an epoch has 1 sample"
        if 1 in (batch.micro, batch.smallest_micro_batch):
            what = "batch.micro is 1" if batch.micro == 1 else "the last micro-batch of a window has 1 sample"
        yield f"{what}: BatchNorm has no statistics of a single sample; choose batch.micro so that none has 1."


def _uneven(batch: BatchPlan) -> Iterator[str]:
    if batch.idle_ranks:
        fits = max(1, -(-batch.global_ // batch.world_size))
        yield (
            f"{batch.idle_ranks} of {batch.world_size} ranks have no samples: the window has only "
            f"{sum(batch.micro_steps)} micro-batches; set batch.micro={fits} or use fewer ranks."
        )
    elif min(batch.micro_steps) != batch.accumulation:
        near = " or ".join(map(str, nearest_multiples(batch.global_, batch.micro * batch.world_size)))
        yield (
            f"ranks have {min(batch.micro_steps)} or {batch.accumulation} micro-steps: {1 - batch.efficiency:.1%} of "
            f"their time is spent waiting; batch.global={near} divides evenly."
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


def _dropped_tail(recipe: Recipe, tail_samples: int | None) -> Iterator[str]:
    if recipe.batch.tail == "drop" and tail_samples:
        total = recipe.data.samples or tail_samples
        yield f"batch.tail=drop leaves out {tail_samples} of {total} samples in each epoch; keep trains on all of them."


def _follows_world(batch: BatchPlan) -> Iterator[str]:
    if batch.follows_world:
        yield (
            f"batch.global is not given: it is {batch.global_} on {batch.world_size} ranks and changes with their "
            f"number; set batch.global={batch.global_} to keep it."
        )


def _long_warmup(rate: LearningRatePlan) -> Iterator[str]:
    if rate.updates is not None and rate.warmup_updates >= rate.updates:
        yield (
            f"schedule.warmup takes {rate.warmup_updates} updates and the run has {rate.updates}: it never leaves the "
            "warm-up."
        )


def _no_checkpoints(recipe: Recipe) -> Iterator[str]:
    if recipe.checkpoint.every is not None:
        yield (
            "checkpoint.every: this version writes no checkpoints; a run that is stopped begins again from the start."
        )
