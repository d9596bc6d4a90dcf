"""Gradient sync in a loop of the user's own, around the model as the user has it.

Here nothing else decides when gradients cross the network. Gradients of all ranks are added, not averaged: the loss
carries the one division of the update.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from launcher.train.engines.small_reductions import LocalValues, PendingValues


class GradientSync(Protocol):
    """What a window asks of whatever holds the ranks together.

    Attributes:
        rank: this rank among those that share the model's gradients.
        world_size: how many there are, W.
        device: where this rank's model lives.
        module: the model itself, without a wrapper.
    """

    rank: int
    world_size: int
    device: torch.device
    module: nn.Module

    def micro_step(self, *, boundary: bool) -> AbstractContextManager[None]:
        """The context of the forward *and* backward of one micro-step.

        Args:
            boundary: whether it is this rank's last of the window.
        """
        ...

    def backward(self, part: Tensor, *, retain_graph: bool) -> None:
        """Take a loss backward, within a micro-step."""
        ...

    def without_data(self) -> None:
        """Take the part of a rank that has nothing in a window in which others have something."""
        ...

    def reduce(self) -> None:
        """End the reduction of the window's gradients.

        Raises:
            RuntimeError: not all gradients were reduced, so that the ranks would drift apart.
        """
        ...

    def sum_over_ranks(self, values: Tensor) -> PendingValues:
        """Begin to add up a small vector over all ranks; every rank must do so in the same order."""
        ...


class OneProcess:
    """One rank alone, which reduces with nobody.

    Args:
        model: the model, on its device.
    """

    rank = 0
    world_size = 1

    def __init__(self, model: nn.Module) -> None:
        self.module = model
        self.device = device_of(model)

    def micro_step(self, *, boundary: bool) -> AbstractContextManager[None]:
        """Nothing to hold back."""
        return nullcontext()

    def backward(self, part: Tensor, *, retain_graph: bool) -> None:
        """Take a loss backward."""
        take_backward(part, retain_graph=retain_graph)

    def without_data(self) -> None:
        """Never: the only rank has what there is."""

    def reduce(self) -> None:
        """Nothing to add."""

    def sum_over_ranks(self, values: Tensor) -> PendingValues:
        """The values themselves."""
        return LocalValues(values)


def take_backward(part: Tensor, *, retain_graph: bool) -> None:
    """Take a loss backward."""
    part.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
