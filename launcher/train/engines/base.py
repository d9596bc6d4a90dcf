"""What a training loop asks of whatever holds the ranks together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from launcher.plan.windows import Window
from launcher.train.chunks import Kept, Parts
from launcher.train.engines.small_reductions import Operation, PendingValues
from launcher.train.snapshot import Tensors

T = TypeVar("T")
Forward: TypeAlias = Callable[[nn.Module], Tensor | None]
"""The forward pass of a micro-step with the model: the scalar to take backward, or None if it did so itself."""


@dataclass(frozen=True)
class Reductions:
    """Gradient all-reduces of a window as they really happened, counted where they are issued.

    Attributes:
        calls: how many there were; of an engine that holds the model in parts, its reduce-scatters too.
        bytes: what was handed to them.
        gathers: all-gathers of parameters, where ranks hold parts of them.
        gathered_bytes: what these gave.
    """

    calls: int = 0
    bytes: int = 0
    gathers: int = 0
    gathered_bytes: int = 0


class Engine(Protocol):
    """Owns gradient sync. Nothing else decides when gradients cross the network.

    Gradients of all ranks are added, not averaged: the loss carries the one division of the update.

    Attributes:
        rank: this rank among the data-parallel ranks.
        world_size: how many there are, W.
        device: where this rank's model lives.
        model: the user's model, which forward passes are made with.
        needs_every_gradient: whether every parameter must get a gradient on every rank at the boundary.
        equal_steps: whether all ranks must go through every forward pass together, since none holds the whole model:
            those with fewer micro-steps take others of weight zero.
        sees_parts: whether `part_squares` can be asked.
        shards: in how many parts the ranks hold the parameters, 1 where each has them whole.
        shard: which of them is this rank's; ranks with the same one hold the same values.
    """

    rank: int
    world_size: int
    device: torch.device
    model: nn.Module
    needs_every_gradient: bool
    equal_steps: bool
    sees_parts: bool
    shards: int
    shard: int

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Take over the optimizer of the model's parameters; to be called once, before anything is trained or loaded.

        Args:
            optimizer: the optimizer; its parameter groups stay where learning rates are set.
        """
        ...

    def forward_only(self, forward: Callable[[nn.Module], T]) -> T:
        """A forward pass that is not trained on; with `equal_steps`, all ranks must make it together.

        Args:
            forward: the forward pass.
        """
        ...

    def begin(self, window: Window, step: int) -> None:
        """To be called before each of this rank's micro-batches, also one without items, which has no micro-step.

        Args:
            window: the window.
            step: which of the rank's micro-batches it is, from 0.
        """
        ...

    def micro_step(self, forward: Forward, *, boundary: bool) -> None:
        """Forward *and* backward of one micro-step; their gradients are reduced at the boundary only.

        Args:
            forward: the forward pass.
            boundary: whether it is this rank's last of the window, or the only one of a rank that has none.
        """
        ...

    def reduce(self) -> Reductions:
        """End the reduction of the window's gradients; to be called after its boundary, before the optimizer steps.

        Returns:
            This rank's gradient all-reduces.

        Raises:
            RuntimeError: not all gradients were reduced, so that the ranks would drift apart.
        """
        ...

    def watch_parts(self, watch: bool) -> None:
        """Whether `part_squares` will be asked after the windows that come."""
        ...

    def part_squares(self) -> list[Tensor]:
        """The squared norms of the parts that this rank added to the window's gradient, after `reduce`.

        One part, its whole gradient before reduction; or one for each micro-step where there is one rank only.
        """
        ...

    def clip(self, max_norm: float | None) -> Tensor:
        """Clip the gradient to `max_norm`, if given, after `reduce`.

        Returns:
            This rank's part of the square of its L2 norm before, a float64 scalar; the parts of all ranks add up to
            it, and they are added with the losses.
        """
        ...

    def step(
        self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, max_norm: float | None
    ) -> tuple[bool, Tensor]:
        """Unscale the reduced gradient, clip it, step on it and clear it, after `reduce`.

        Args:
            optimizer: the one that the engine holds.
            scaler: scaled the losses of the window; it may be disabled.
            max_norm: the largest norm; None does not clip.

        Returns:
            Whether the step was taken, the same on every rank, and what `clip` returns. It is left out where fp16 made
            the gradient overflow.
        """
        ...

    def finite(self) -> bool:
        """Whether the reduced gradient is finite, the same on every rank; the host waits for the answer."""
        ...

    def model_state(self) -> Tensors | Parts:
        """The parameters and buffers: whole, where every rank has them, or what this rank is to keep of them."""
        ...

    def load_model_state(self, kept: Kept) -> None:
        """Give the model the parameters and buffers of a checkpoint; every rank must ask.

        Raises:
            OtherModelError: they are those of another model.
        """
        ...

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> Tensors | Parts:
        """What the optimizer remembers of each parameter, in the same way as `model_state`."""
        ...

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, kept: Kept) -> None:
        """Give the optimizer its memory back."""
        ...

    def reduce_over_ranks(self, values: Tensor, operation: Operation = "sum") -> PendingValues:
        """Begin to reduce a small vector over all ranks; every rank must do so in the same order."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """A small Python object of every rank, in the order of the ranks."""
        ...

    def share_buffers(self) -> None:
        """Give every rank the model buffers (running statistics) of rank 0."""
        ...
