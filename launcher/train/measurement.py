"""Measuring an update without waiting for it: its numbers are read when the next update is done."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from launcher.plan.windows import Window
from launcher.train.engines.base import Engine, Reductions
from launcher.train.engines.sums import LocalSums, PendingSums
from launcher.train.step_result import StepResult


@dataclass
class Measurement:
    """An update that is done, whose loss and gradient norm are still on their way.

    Attributes:
        window: what entered the update.
        sums: [loss, ranks that were asked to stop], to be added over all ranks.
        grad_norm: the norm, to be copied from the device.
        seconds: set when the update has ended; see `StepResult`, as for the others.
        data_seconds: set with it.
        evaluation: set when an evaluation was due after the update.
    """

    window: Window
    sums: PendingSums
    grad_norm: LocalSums
    learning_rate: float
    micro_steps: int
    reductions: Reductions
    peak_bytes: int
    seconds: float = 0.0
    data_seconds: float = 0.0
    evaluation: Mapping[str, float] = field(default_factory=dict)

    def result(self, data_samples: int) -> tuple[StepResult, bool]:
        """The update's numbers, and whether any rank was asked to stop.

        Args:
            data_samples: samples of an epoch.
        """
        loss, stops = self.sums.read()
        (grad_norm,) = self.grad_norm.read()
        window = self.window
        result = StepResult(
            window=window,
            epoch=window.epoch + (window.first + window.samples) / data_samples,
            loss=loss,
            learning_rate=self.learning_rate,
            grad_norm=grad_norm,
            micro_steps=self.micro_steps,
            reductions=self.reductions,
            seconds=self.seconds,
            data_seconds=self.data_seconds,
            peak_bytes=self.peak_bytes,
            evaluation=self.evaluation,
        )
        return result, stops > 0


def begin_sums(engine: Engine, loss: Tensor, stop: bool) -> PendingSums:
    """Begin to add an update's loss and the ranks' wish to stop over all ranks, in one small all-reduce.

    Args:
        engine: the engine.
        loss: this rank's part of the loss, a scalar.
        stop: whether this rank was asked to stop.
    """
    stop_flag = torch.tensor(float(stop), dtype=torch.float64, device=engine.device)
    return engine.sum_over_ranks(torch.stack((loss.double(), stop_flag)))


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: allocated on the GPU, or resident in the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
