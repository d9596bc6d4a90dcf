"""From sums over all ranks to the results of updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from launcher.train.measurement import Measurement
from launcher.train.noise_scale import NoiseMeasurement, NoiseScale
from launcher.train.snapshot import Numbers
from launcher.train.step_result import StepResult


class StepResults:
    """Makes the results of updates, in their order: some numbers run on from one to the next.

    Args:
        weights: name → weight of each loss.
        data_samples: samples of an epoch.
        counts_items: whether the task counts items (tokens), or they are samples.
    """

    def __init__(self, weights: Mapping[str, float], data_samples: int, counts_items: bool) -> None:
        self._weights = weights
        self._data_samples = data_samples
        self._tokens_seen = 0 if counts_items else None
        self._noise_scale = NoiseScale()

    def state(self) -> Numbers:
        """What runs on from one update to the next."""
        return {"tokens_seen": self._tokens_seen, "noise_scale": self._noise_scale.means}

    def restore(self, state: Numbers) -> None:
        """Go on from the updates before."""
        self._tokens_seen = state["tokens_seen"]
        self._noise_scale.go_on(state["noise_scale"])

    def of(self, measurement: Measurement, sums: Sequence[float], peak_bytes: int) -> StepResult:
        """The result of an update.

        Args:
            measurement: what this rank measured.
            sums: its sums, added over all ranks.
            peak_bytes: most memory in use by then.
        """
        window, totals = measurement.window, measurement.totals
        *means, square, weighted_squares = sums
        losses = {name: mean for name, mean, items in zip(self._weights, means, totals, strict=True) if items}
        if self._tokens_seen is not None:
            self._tokens_seen += totals[0]
        noise_scale = None
        if measurement.parts > 1 and math.isfinite(weighted_squares):
            noise = NoiseMeasurement(weighted_squares, square, window.samples, measurement.parts)
            noise_scale = self._noise_scale.add(noise)
        return StepResult(
            window=window,
            epoch=window.epoch + (window.first + window.samples) / self._data_samples,
            losses=losses,
            loss=sum(self._weights[name] * mean for name, mean in losses.items()) if losses else None,
            items=totals[0],
            tokens_seen=self._tokens_seen,
            learning_rate=measurement.learning_rate,
            grad_norm=math.sqrt(square) if losses else None,
            noise_scale=noise_scale,
            micro_steps=measurement.micro_steps,
            skipped=measurement.skipped,
            reductions=measurement.reductions,
            seconds=measurement.seconds,
            data_seconds=measurement.data_seconds,
            peak_bytes=peak_bytes,
            evaluation=measurement.evaluation,
        )
