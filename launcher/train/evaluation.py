"""Evaluation: every sample once, over all ranks."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial, reduce
from typing import Any, TypeAlias

import torch
from torch import Tensor

from launcher.train.engines.base import Engine
from launcher.train.loader import to_device
from launcher.train.progress import Progress
from launcher.train.samples import KeyedBatches, Wanted
from launcher.train.task import Measured, SampleSource, Task

MOST = 256  # samples per forward pass, which are enough to keep a GPU busy
Sum: TypeAlias = tuple[float, float]  # Σ value·weight and Σ weight
NOTHING: Sum = (0.0, 0.0)


def evaluate(
    task: Task,
    data: SampleSource,
    engine: Engine,
    precision: AbstractContextManager[Any],
    progress: Progress | None = None,
    batch: int = MOST,
) -> dict[str, float]:
    """The mean of each of the task's measurements over every sample of the evaluation data.

    Where a measurement has weights it is Σ value·weight / Σ weight, over all samples of all ranks, never a mean of the
    means of batches. One whose weights add up to zero has no mean and is left out.

    The ranks take contiguous parts of equal size, or one sample more: no sample is padded or counted twice.

    Args:
        task: the task, for its `evaluate` and `collate`.
        data: the evaluation data.
        engine: the engine; all its ranks must evaluate.
        precision: the context that a forward pass runs in.
        progress: is told of each batch; None tells nobody.
        batch: samples per forward pass.

    Raises:
        ValueError: the task returns something else than numbers for each sample, or weights of another shape.
    """
    return means_over_ranks(engine, sums_of_rank(task, data, engine, precision, progress, batch))


def sums_of_rank(
    task: Task,
    data: SampleSource,
    engine: Engine,
    precision: AbstractContextManager[Any],
    progress: Progress | None = None,
    batch: int = MOST,
) -> dict[str, Sum]:
    """This rank's part of what `evaluate` gives, from the same arguments; all ranks must ask, for its buffers."""
    progress = progress or Progress()
    engine.share_buffers()
    model, move = engine.model, to_device(engine.device)
    batches = KeyedBatches(task, data, seed=0)  # with the same random numbers each time, and none of the training's
    sums: dict[str, Sum] = {}
    trained = [module for module in model.modules() if module.training]  # not all: a part that is frozen may be at rest
    model.eval()
    low, high = (len(data) * rank // engine.world_size for rank in (engine.rank, engine.rank + 1))
    most = -(-len(data) // engine.world_size)  # samples of the rank that has the most
    try:
        with torch.no_grad(), precision:
            for first in range(low, low + most if engine.equal_steps else high, batch):
                progress.evaluates()
                own = range(first, min(first + batch, high))
                samples = own or range(1)  # what a rank without samples of its own takes part with
                (collated,) = batches.here([Wanted(0, samples)])
                found = engine.forward_only(partial(task.evaluate, batch=move(collated)))
                for name, measured in found.items() if own else ():
                    part = _weighted_sum(name, measured, len(own))
                    sums[name] = _added(sums.get(name, NOTHING), part)
    finally:
        for module in trained:
            module.training = True
    progress.has_evaluated()
    return sums


def _weighted_sum(name: str, measured: Measured, samples: int) -> Sum:
    """A batch's Σ value·weight and Σ weight; without weights each value weighs 1."""
    values, weights = (measured, None) if isinstance(measured, Tensor) else measured
    if not values.ndim or len(values) != samples:
        raise ValueError(
            f"Task.evaluate: {name!r} has the shape {list(values.shape)}; return one number for each of the "
            f"{samples} samples, not their mean"
        )
    values = values.double()
    if weights is None:
        return values.sum().item(), float(values.numel())
    if weights.shape != values.shape:
        raise ValueError(
            f"Task.evaluate: {name!r} has values of the shape {list(values.shape)} and weights of the shape "
            f"{list(weights.shape)}; return a weight for each value"
        )
    weights = weights.double()
    return (values * weights).sum().item(), weights.sum().item()


def _added(one: Sum, other: Sum) -> Sum:
    return one[0] + other[0], one[1] + other[1]


def means_over_ranks(engine: Engine, own: dict[str, Sum]) -> dict[str, float]:
    """The means of what all ranks have found.

    Args:
        engine: all its ranks must ask.
        own: what this one has found.
    """
    of_ranks = engine.gather(own)
    names = dict.fromkeys(name for sums in of_ranks for name in sums)
    totals = {name: reduce(_added, (sums.get(name, NOTHING) for sums in of_ranks)) for name in names}
    return {name: total / weight for name, (total, weight) in totals.items() if weight}
