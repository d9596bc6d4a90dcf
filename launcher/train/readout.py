"""Reading what updates measured, some updates later, so that none waits for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from launcher.train.engines.base import Engine
from launcher.train.engines.sums import PendingSums
from launcher.train.measurement import Measurement
from launcher.train.step_result import StepResult

INTERVAL = 0.1  # seconds of updates whose losses are added over the ranks together; a longer update goes alone
MOST_TOGETHER = 256


@dataclass(frozen=True)
class _UnderWay:
    """Updates whose numbers are being added over the ranks.

    The sums: a loss for each update, a squared norm for each, then ranks asked to stop, then seconds.
    """

    measurements: list[Measurement]
    sums: PendingSums


class Readout:
    """Adds what updates measured over all ranks, for all updates of a tenth of a second together.

    A small all-reduce takes as long as a small model's update. How many updates share one follows from the seconds
    that they took, which are added too, so that every rank finds the same number.

    Attributes:
        stop: whether any rank was asked to stop, as far as the sums have arrived; the same on every rank.

    Args:
        engine: the engine.
        should_stop: whether this rank was asked to stop.
        data_samples: samples of an epoch.
    """

    def __init__(self, engine: Engine, should_stop: Callable[[], bool], data_samples: int) -> None:
        self._engine = engine
        self._should_stop = should_stop
        self._data_samples = data_samples
        self._done: list[Measurement] = []
        self._under_way: _UnderWay | None = None
        self._together = 1
        self.stop = False

    def add(self, measurement: Measurement) -> list[StepResult]:
        """Take an update; returns the results of earlier ones, which had until now to arrive."""
        results = self._arrived()
        self._done.append(measurement)
        if len(self._done) >= self._together:
            self._begin()
        return results

    def flush(self) -> list[StepResult]:
        """The results of all updates that are left; every rank must ask for them after the same update."""
        results = self._arrived()
        if self._done:
            self._begin()
        return results + self._arrived()

    def _begin(self) -> None:
        done, self._done = self._done, []
        own = (float(self._should_stop()), sum(measurement.seconds for measurement in done))
        losses = torch.stack([measurement.loss for measurement in done]).double()
        squares = torch.stack([measurement.grad_square for measurement in done])
        sums = self._engine.sum_over_ranks(torch.cat((losses, squares, losses.new_tensor(own))))
        self._under_way = _UnderWay(done, sums)

    def _arrived(self) -> list[StepResult]:
        if self._under_way is None:
            return []
        read, self._under_way = self._under_way, None
        *numbers, stops, seconds = read.sums.read()
        losses, squares = numbers[: len(read.measurements)], numbers[len(read.measurements) :]
        self.stop = self.stop or stops > 0
        one = seconds / self._engine.world_size / len(losses)
        self._together = max(1, min(MOST_TOGETHER, int(INTERVAL / one)))
        return [
            measurement.result(loss, math.sqrt(square), self._data_samples)
            for measurement, loss, square in zip(read.measurements, losses, squares, strict=True)
        ]
