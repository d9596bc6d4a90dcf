"""Evaluations as the training loop makes them."""

from __future__ import annotations

from contextlib import nullcontext

from launcher.train.engines.base import Engine
from launcher.train.evaluation import MOST, Evaluation
from launcher.train.task import SampleSource, Task


def evaluate(task: Task, data: SampleSource, engine: Engine, batch: int = MOST) -> dict[str, float]:
    """The means over every sample; all ranks of the engine must evaluate."""
    evaluation = Evaluation(task, data, engine, nullcontext())
    means = evaluation.means(evaluation.of_rank(batch))
    assert means is not None, "nobody asked it to stop"
    return means
