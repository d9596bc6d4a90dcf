"""Reading what updates measured, some updates later, so that none waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from launcher.train.engines.base import Engine
from launcher.train.engines.small_reductions import PendingValues
from launcher.train.measurement import Measurement, peak_memory
from launcher.train.step_result import StepResult
from launcher.train.step_results import StepResults

INTERVAL = 0.1  # seconds of updates whose losses are added over the ranks together; a longer update goes alone
MOST_TOGETHER = 256


@dataclass(frozen=True)
class _UnderWay:
    """Updates whose sums are being added over the ranks; behind them, what ranks ask for, and seconds."""

    measurements: list[Measurement]
    sums: PendingValues
    peak_bytes: int


class Readout:
    """Adds what updates measured over all ranks, for all updates of a tenth of a second together.

    A small all-reduce takes as long as a small model's update. How many updates share one follows from the seconds
    that they took, which are added too, so that every rank finds the same number.

    Attributes:
        stop: whether any rank was asked to stop, as far as the sums have arrived; the same on every rank.
        save: whether any rank wishes that the state be kept; as above.

    Args:
        engine: the engine.
        results: makes results of what arrives.
        should_stop: whether this rank was asked to stop.
        wishes_to_save: whether this rank would have the state kept.
    """

    def __init__(
        self,
        engine: Engine,
        results: StepResults,
        should_stop: Callable[[], bool],
        wishes_to_save: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._should_stop = should_stop
        self._wishes_to_save = wishes_to_save
        self._results = results
        self._done: list[Measurement] = []
        self._under_way: _UnderWay | None = None
        self._together = 1
        self.stop = self.save = False

    def add(self, measurement: Measurement) -> list[StepResult]:
        """Take an update; returns the results of earlier ones, which had until now to arrive."""
        results = self._arrived()
        self._done.append(measurement)
        if len(self._done) >= self._together:
            self._begin()
        return results

    def flush(self) -> list[StepResult]:
        """The results of all updates that are left, before the state is kept; on every rank after the same update."""
        results = self._arrived()
        if self._done:
            self._begin()
        results += self._arrived()
        self.save = False  # what was asked for is done now
        return results

    def _begin(self) -> None:
        done, self._done = self._done, []
        asked = (float(self._should_stop()), float(self._wishes_to_save()))
        own = (*asked, sum(measurement.seconds for measurement in done))
        sums = torch.cat([measurement.sums for measurement in done])
        pending = self._engine.reduce_over_ranks(torch.cat((sums, sums.new_tensor(own))))
        self._under_way = _UnderWay(done, pending, peak_memory(self._engine.device))

    def _arrived(self) -> list[StepResult]:
        if self._under_way is None:
            return []
        read, self._under_way = self._under_way, None
        *sums, stops, saves, seconds = read.sums.read()
        self.stop, self.save = self.stop or stops > 0, saves > 0
        updates = len(read.measurements)
        self._together = max(1, min(MOST_TOGETHER, int(INTERVAL * updates * self._engine.world_size / seconds)))
        each = len(sums) // updates
        return [
            self._results.of(measurement, sums[each * index : each * (index + 1)], read.peak_bytes)
            for index, measurement in enumerate(read.measurements)
        ]
