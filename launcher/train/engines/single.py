"""One rank alone: no process group, nothing to reduce."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from launcher.train.engines.base import Reductions
from launcher.train.engines.gradients import clip_to_norm, squared_norm
from launcher.train.engines.sums import LocalSums, PendingSums


class SingleEngine:
    """The engine of a world of one.

    Args:
        model: the model, on its device.
        device: that device.
    """

    rank = 0
    world_size = 1

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.module = self.bare_module = model
        self.device = device

    def micro_step(self, *, boundary: bool) -> AbstractContextManager[None]:
        """Nothing to hold back: one rank reduces with nobody."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the window."""
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def take_reductions(self) -> Reductions:
        """None, and none are needed."""
        return Reductions()

    def clip(self, max_norm: float | None) -> Tensor:
        """Clip the gradient; the square of its norm before that."""
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        return squared_norm(gradients) if max_norm is None else clip_to_norm(gradients, max_norm)

    def sum_over_ranks(self, values: Tensor) -> PendingSums:
        """The values themselves."""
        return LocalSums(values)

    def gather(self, value: Any) -> list[Any]:
        """The value of the only rank."""
        return [value]

    def share_buffers(self) -> None:
        """The only rank has them already."""
