"""Best and last of what was measured on the evaluation data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from launcher.report.read import RunRecord

PREFIX = "eval/"

_LOWER_IS_BETTER = frozenset(
    ("loss", "error", "err", "perplexity", "ppl", "nll", "mse", "mae", "rmse", "wer", "cer", "fid", "bpb")
)
_HIGHER_IS_BETTER = frozenset(
    (
        *("accuracy", "acc", "f1", "auc", "auroc", "iou", "miou", "dice", "bleu", "rouge", "precision", "recall"),
        *("score", "map", "r2", "top1", "top5", "psnr", "ssim", "correct"),
    )
)


@dataclass(frozen=True)
class Extreme:
    """A value and the update after which it was measured."""

    value: float
    update: float


@dataclass(frozen=True)
class Measured:
    """One measurement over a run.

    Attributes:
        name: of the metric, without `eval/`.
        last: its last value.
        lowest: its first lowest value.
        highest: its first highest value.
        best: the better of the two, where the name tells which one that is.
        lower_is_better: which one the name tells; None where it tells none.
    """

    name: str
    last: Extreme
    lowest: Extreme
    highest: Extreme
    best: Extreme | None
    lower_is_better: bool | None


def evaluations(record: RunRecord) -> list[Measured]:
    """Every eval/* metric of a run that has a value."""
    found = (_measured(record, metric) for metric in record.metrics(PREFIX))
    return [measured for measured in found if measured is not None]


def headline(measurements: Iterable[Measured]) -> Measured | None:
    """The measurement to name first: one whose best is known, and rather not a loss, which the chart shows."""
    known = [measured for measured in measurements if measured.best is not None]
    return min(known, key=lambda measured: ("loss" in _parts(measured.name), measured.name), default=None)


def _measured(record: RunRecord, metric: str) -> Measured | None:
    values = [Extreme(value, update) for update, value in record.column(metric) if value is not None]
    if not values:
        return None
    name = metric.removeprefix(PREFIX)
    lowest = min(values, key=lambda extreme: extreme.value)
    highest = max(values, key=lambda extreme: extreme.value)
    parts = _parts(name)
    lower = True if parts & _LOWER_IS_BETTER else False if parts & _HIGHER_IS_BETTER else None
    best = None if lower is None else lowest if lower else highest
    return Measured(name, values[-1], lowest, highest, best, lower)


def _parts(name: str) -> frozenset[str]:
    return frozenset(re.split(r"[^a-z0-9]+", name.lower()))
