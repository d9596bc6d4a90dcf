"""What a training loop asks of whatever holds the ranks together."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from launcher.train.engines.sums import PendingSums


@dataclass
class Reductions:
    """Gradient all-reduces as they really happened, counted where they are issued.

    Attributes:
        calls: how many there were.
        bytes: what was handed to them.
    """

    calls: int = 0
    bytes: int = 0


class Engine(Protocol):
    """Owns gradient sync. Nothing else decides when gradients cross the network.

    Gradients of all ranks are added, not averaged: the loss carries the one division of the update.

    Attributes:
        rank: this rank among the data-parallel ranks.
        world_size: how many there are, W.
        device: where this rank's model lives.
        module: what a task calls for a forward pass whose gradients count.
        bare_module: the model itself, for evaluation and saving.
    """

    rank: int
    world_size: int
    device: torch.device
    module: nn.Module
    bare_module: nn.Module

    def micro_step(self, *, boundary: bool) -> AbstractContextManager[None]:
        """Wraps the forward *and* the backward of one micro-step; gradients are reduced at the boundary only."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the window."""
        ...

    def take_reductions(self) -> Reductions:
        """This rank's gradient all-reduces since the last call; to be called before the optimizer steps.

        Raises:
            RuntimeError: not all gradients were reduced, so that the ranks would drift apart.
        """
        ...

    def clip(self, max_norm: float | None) -> Tensor:
        """Clip the gradient to `max_norm`, if given, after `take_reductions`.

        Returns:
            This rank's part of the square of its L2 norm before, a float64 scalar; the parts of all ranks add up to
            it, and they are added with the losses.
        """
        ...

    def sum_over_ranks(self, values: Tensor) -> PendingSums:
        """Begin to add a small float64 vector over all ranks; every rank must do so in the same order."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """A small Python object of every rank, in the order of the ranks."""
        ...

    def share_buffers(self) -> None:
        """Give every rank the model buffers (running statistics) of rank 0."""
        ...
