"""Evaluation: every sample once, over all ranks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial, reduce
from time import monotonic
from typing import Any, TypeAlias

import torch
from torch import Tensor

from launcher.train.engines.base import Engine
from launcher.train.kept_state import KeptBuffers, RandomState
from launcher.train.loader import to_device
from launcher.train.out_of_memory import on_any_rank
from launcher.train.progress import Progress
from launcher.train.samples import KeyedBatches, Wanted
from launcher.train.task import Measured, SampleSource, Task

MOST = 256  # samples per forward pass, which are enough to keep a GPU busy
Sum: TypeAlias = tuple[float, float]  # Σ value·weight and Σ weight
Sums: TypeAlias = dict[str, Sum]  # by the name of the measurement
NOTHING: Sum = (0.0, 0.0)


@dataclass(frozen=True)
class Evaluation:
    """The mean of each of the task's measurements over every sample of the evaluation data.

    Where a measurement has weights it is Σ value·weight / Σ weight, over all samples of all ranks, never a mean of the
    means of batches. One whose weights add up to zero has no mean and is left out.

    The ranks take contiguous parts of equal size, or one sample more: no sample is padded or counted twice.

    Attributes:
        task: the task, for its `evaluate` and `collate`.
        data: the evaluation data.
        engine: the engine; all its ranks must evaluate.
        precision: the context that a forward pass runs in.
        progress: is told of each batch.
        should_stop: whether this rank was asked to stop, which is asked before each batch.
        patience: seconds that the evaluation goes on after that, to come to its end.
    """

    task: Task
    data: SampleSource
    engine: Engine
    precision: AbstractContextManager[Any]
    progress: Progress = field(default_factory=Progress)
    should_stop: Callable[[], bool] = lambda: False
    patience: float = 0.0

    def of_rank(self, batch: int = MOST) -> Sums | None:
        """This rank's part, which `means` puts together; None if it was left, and that without a trace.

        Args:
            batch: samples per forward pass.

        Raises:
            ValueError: the task returns something else than numbers for each sample, or weights of another shape.
        """
        engine, model = self.engine, self.engine.model
        engine.share_buffers()
        buffers, random = KeptBuffers(model), RandomState.of(engine.device)
        buffers.keep()
        trained = [module for module in model.modules() if module.training]  # a part that is frozen may be at rest
        model.eval()
        try:
            with torch.no_grad(), self.precision:
                sums = self._sums(batch)
        finally:
            for module in trained:
                module.training = True
            self.progress.has_evaluated()
        if sums is None:
            buffers.restore()
            random.restore(engine.device)
        return sums

    def _sums(self, batch: int) -> Sums | None:
        engine, move = self.engine, to_device(self.engine.device)
        batches = KeyedBatches(self.task, self.data, seed=0)  # the same random numbers each time, not the training's
        low, high = (len(self.data) * rank // engine.world_size for rank in (engine.rank, engine.rank + 1))
        most = -(-len(self.data) // engine.world_size)  # samples of the rank that has the most
        sums: Sums = {}
        time_is_up = _TimeIsUp(self.should_stop, self.patience)
        for first in range(low, low + most if engine.equal_steps else high, batch):
            if self._on_all(time_is_up()):
                return None
            self.progress.evaluates()
            own = range(first, min(first + batch, high))
            samples = own or range(1)  # what a rank without samples of its own takes part with
            (collated,) = batches.here([Wanted(0, samples)])
            found = engine.forward_only(partial(self.task.evaluate, batch=move(collated)))
            for name, measured in found.items() if own else ():
                part = _weighted_sum(name, measured, len(own))
                sums[name] = _added(sums.get(name, NOTHING), part)
        return sums

    def _on_all(self, leave: bool) -> bool:
        """Ranks that go through every batch together leave together."""
        return on_any_rank(self.engine, leave) if self.engine.equal_steps else leave

    def means(self, own: Sums | None) -> dict[str, float] | None:
        """The means of what all ranks have found; None if any has left.

        Args:
            own: what this one has found.
        """
        of_ranks = self.engine.gather(own)
        found = [sums for sums in of_ranks if sums is not None]
        if len(found) < len(of_ranks):
            return None
        names = dict.fromkeys(name for sums in found for name in sums)
        totals = {name: reduce(_added, (sums.get(name, NOTHING) for sums in found)) for name in names}
        return {name: total / weight for name, (total, weight) in totals.items() if weight}


class _TimeIsUp:
    """Whether something has been so for some seconds, as far as it was asked."""

    def __init__(self, is_so: Callable[[], bool], seconds: float) -> None:
        self._is_so = is_so
        self._seconds = seconds
        self._since: float | None = None

    def __call__(self) -> bool:
        if self._since is None and self._is_so():
            self._since = monotonic()
        return self._since is not None and monotonic() - self._since >= self._seconds


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
