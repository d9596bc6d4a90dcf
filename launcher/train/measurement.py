"""Measuring updates without waiting for them: their numbers are read when a later update is done."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from launcher.plan.windows import Window
from launcher.train.engines.base import Reductions
from launcher.train.step_result import StepResult


@dataclass
class Measurement:
    """An update that is done, whose loss and gradient norm are still on the device.

    Attributes:
        window: what entered the update.
        loss: this rank's part of it, a scalar tensor.
        grad_square: this rank's part of the square of the reduced gradient's norm, a float64 scalar tensor.
        learning_rate: see `StepResult`, as for the others.
        seconds: set when the update has ended.
        data_seconds: set with it.
        evaluation: set when an evaluation was due after the update.
    """

    window: Window
    loss: Tensor
    grad_square: Tensor
    learning_rate: float
    micro_steps: int
    reductions: Reductions
    peak_bytes: int
    seconds: float = 0.0
    data_seconds: float = 0.0
    evaluation: Mapping[str, float] = field(default_factory=dict)

    def result(self, loss: float, grad_norm: float, data_samples: int) -> StepResult:
        """The update's numbers.

        Args:
            loss: the loss over all ranks.
            grad_norm: the norm, as it arrived.
            data_samples: samples of an epoch.
        """
        window = self.window
        return StepResult(
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


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: allocated on the GPU, or resident in the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
