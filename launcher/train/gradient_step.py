"""The optimizer step on a reduced gradient: unscale, clip, step, clear, in this order and in this place only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def step_on_gradient(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, clip: Callable[[], Tensor]
) -> tuple[bool, Tensor]:
    """Unscale the reduced gradient, clip it, step on it and clear it.

    Args:
        optimizer: holds the gradient.
        scaler: scaled the losses of the window; it may be disabled.
        clip: clips the gradient, if it is to be, and returns the square of its norm before.

    Returns:
        Whether the step was taken, and what `clip` returned. It is left out where fp16 made the gradient overflow.
    """
    scaler.unscale_(optimizer)
    square = clip()
    scaler.step(optimizer)
    applied = True
    if scaler.is_enabled():
        one = torch.ones((), device=square.device)
        before = scaler.scale(one)
        scaler.update()
        # The scale falls when, and only when, a gradient was not finite and the step was left out. The host waits for
        # this one answer: the next update's learning rate depends on it.
        applied = bool(scaler.scale(one) >= before)
    optimizer.zero_grad(set_to_none=True)
    return applied, square
