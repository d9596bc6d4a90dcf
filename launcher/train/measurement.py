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


@dataclass
class Measurement:
    """An update that is done, whose losses and gradient norm are still on the device.

    Attributes:
        window: what entered the update.
        totals: items of each loss over all ranks.
        sums: float64, [T + 2], this rank's part of: each loss, the square of the reduced gradient's norm, and what the
            noise scale is estimated from.
        parts: of how many parts the last is a sum; 0 when it was not measured.
        learning_rate: see `StepResult`, as for those that follow.
        seconds: set when the update has ended.
        data_seconds: set with it.
        evaluation: set when an evaluation was due after the update.
    """

    window: Window
    totals: tuple[int, ...]
    sums: Tensor
    parts: int
    learning_rate: float
    micro_steps: int
    skipped: int
    reductions: Reductions
    seconds: float = 0.0
    data_seconds: float = 0.0
    evaluation: Mapping[str, float] = field(default_factory=dict)


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: allocated on the GPU, or resident in the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
