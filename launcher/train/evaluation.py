"""Evaluation: every sample once, over all ranks."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from launcher.train.engines.base import Engine
from launcher.train.loader import to_device
from launcher.train.task import SampleSource, Task, fetch

BATCH = 256  # samples per forward pass; without gradients more fit than in training


def evaluate(
    task: Task, data: SampleSource, engine: Engine, precision: AbstractContextManager[Any]
) -> dict[str, float]:
    """The mean of each of the task's measurements over every sample of the evaluation data.

    The ranks take contiguous parts of equal size, or one sample more: no sample is padded or counted twice.

    Args:
        task: the task, for its `evaluate` and `collate`.
        data: the evaluation data.
        engine: the engine; all its ranks must evaluate.
        precision: the context that a forward pass runs in.

    Raises:
        ValueError: the task returns something else than numbers for each sample.
    """
    engine.share_buffers()
    model, move = engine.model, to_device(engine.device)
    sums: dict[str, tuple[float, int]] = {}
    was_training = model.training
    model.eval()
    low, high = (len(data) * rank // engine.world_size for rank in (engine.rank, engine.rank + 1))
    try:
        with torch.no_grad(), precision:
            for first in range(low, high, BATCH):
                samples = range(first, min(first + BATCH, high))
                for name, values in task.evaluate(model, move(fetch(task, data, samples))).items():
                    _check_per_sample(name, values, len(samples))
                    total, count = sums.get(name, (0.0, 0))
                    sums[name] = (total + values.double().sum().item(), count + values.numel())
    finally:
        model.train(was_training)
    return _means(engine.gather(sums))


def _check_per_sample(name: str, values: Tensor, samples: int) -> None:
    if not values.ndim or len(values) != samples:
        raise ValueError(
            f"Task.evaluate: {name!r} has the shape {list(values.shape)}; return one number for each of the "
            f"{samples} samples, not their mean"
        )


def _means(of_ranks: list[dict[str, tuple[float, int]]]) -> dict[str, float]:
    names = dict.fromkeys(name for sums in of_ranks for name in sums)
    nothing = (0.0, 0)
    return {
        name: sum(sums.get(name, nothing)[0] for sums in of_ranks)
        / sum(sums.get(name, nothing)[1] for sums in of_ranks)
        for name in names
    }
