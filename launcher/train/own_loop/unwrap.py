"""What accelerate wraps, taken out again: its wrappers count ranks and micro-steps for themselves."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau


class Scheduler(Protocol):
    """A learning-rate schedule, as torch's are."""

    def step(self) -> None:
        """The next update's learning rate."""
        ...


def unwrap_optimizer(optimizer: torch.optim.Optimizer) -> tuple[torch.optim.Optimizer, torch.amp.GradScaler | None]:
    """The optimizer itself, and the gradient scaler that accelerate goes with it, if any."""
    wrapper: Any = optimizer
    return (wrapper.optimizer, wrapper.scaler) if _is_accelerates(optimizer) else (optimizer, None)


def unwrap_scheduler(scheduler: Scheduler | None) -> Scheduler | None:
    """The schedule itself: as prepared by accelerate it takes a step for every rank.

    Raises:
        TypeError: it follows a measurement, and not updates.
    """
    wrapper: Any = scheduler
    found: Scheduler | None = wrapper.scheduler if _is_accelerates(scheduler) else scheduler
    if isinstance(found, ReduceLROnPlateau):
        raise TypeError("ReduceLROnPlateau follows a measurement, not updates: step it yourself after you measured")
    return found


def _is_accelerates(thing: object) -> bool:
    return type(thing).__module__ in ("accelerate.optimizer", "accelerate.scheduler")
