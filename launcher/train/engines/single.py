"""One rank alone: no process group, nothing to reduce."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from launcher.plan.windows import Window
from launcher.train.engines.base import Forward, Reductions
from launcher.train.engines.gradients import clip_to_norm, gradients_of, own_gradients, squared_norm
from launcher.train.engines.small_reductions import LocalValues, Operation, PendingValues
from launcher.train.engines.whole_model import WholeModel


class SingleEngine(WholeModel):
    """The engine of a world of one.

    Args:
        model: the model, on its device.
        device: that device.
    """

    rank = 0
    world_size = 1
    needs_every_gradient = False

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model
        self.device = device
        self._watched = False
        self._squares: list[Tensor] = []

    def begin(self, window: Window, step: int) -> None:
        """The rank's own gradient is one sum, whichever micro-batch adds to it."""

    def micro_step(self, forward: Forward, *, boundary: bool) -> None:
        """Forward and backward; one rank reduces with nobody."""
        if self._watched:
            with own_gradients(self.model) as gradients:
                self._run(forward)
                self._squares.append(squared_norm(gradients()))
        else:
            self._run(forward)

    def _run(self, forward: Forward) -> None:
        loss = forward(self.model)
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def reduce(self) -> Reductions:
        """None, and none are needed."""
        return Reductions()

    def watch_parts(self, watch: bool) -> None:
        """Take the norm of each micro-step's own gradient from now on, or no more."""
        self._watched = watch
        self._squares = []

    def part_squares(self) -> list[Tensor]:
        """The squared norm of each micro-step's own gradient."""
        return self._squares

    def clip(self, max_norm: float | None) -> Tensor:
        """Clip the gradient; the square of its norm before that."""
        gradients = gradients_of(self.model)
        return squared_norm(gradients) if max_norm is None else clip_to_norm(gradients, max_norm)

    def reduce_over_ranks(self, values: Tensor, operation: Operation = "sum") -> PendingValues:
        """The values themselves."""
        return LocalValues(values)

    def gather(self, value: Any) -> list[Any]:
        """The value of the only rank."""
        return [value]

    def share_buffers(self) -> None:
        """The only rank has them already."""
