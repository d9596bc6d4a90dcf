"""All backwards first, then one reduction: for windows in which parameters get gradients from several backwards.

DDP takes the first gradient that a parameter gets after a forward pass for the last one of the window. With a backward
for each of several losses it reduces too early and says nothing (measured, torch 2.13). Here it is not asked.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.plan.windows import Window
from launcher.recipe.parallel_section import ParallelSection
from launcher.train.engines.base import Forward, Reductions
from launcher.train.engines.bucket_reduction import BucketReduction
from launcher.train.engines.gradients import clip_replicated, l2_norm, squared, trained
from launcher.train.engines.process_group import broadcast_from_first, gather
from launcher.train.engines.small_reductions import Operation, PendingValues, ReducedValues
from launcher.train.engines.whole_model import WholeModel


class DeferredEngine(WholeModel):
    """Gradient sync by one all-reduce of each bucket after the boundary's last backward.

    Exact for any number of backwards in a micro-step, in any order. The reduction is not overlapped with a backward.

    Args:
        model: the model, on its device.
        device: that device.
        settings: the recipe's `parallel` section.
    """

    needs_every_gradient = False

    def __init__(self, model: nn.Module, device: torch.device, settings: ParallelSection) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = device
        self.model = model
        self._reduction = BucketReduction(trained(model), settings.bucket_mb, flags_on=torch.device("cpu"))
        self._gradients: list[Tensor] = []
        self._watched = False
        self._squares: list[Tensor] = []
        self._has_buffers = any(True for _ in model.buffers())
        broadcast_from_first([*model.parameters(), *model.buffers()])

    def begin(self, window: Window, step: int) -> None:
        """The rank's own gradient is one sum, whichever micro-batch adds to it.

        The buffers of the window before, which nothing else holds any more, are no memory that this one lacks.
        """
        if step == 0:
            self._gradients = []

    def micro_step(self, forward: Forward, *, boundary: bool) -> None:
        """Forward and backward; nothing is reduced before `reduce`."""
        loss = forward(self.model)
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def reduce(self) -> Reductions:
        """Add the gradients of all ranks; a parameter that got none on any rank keeps none.

        The next window begins with the buffers of rank 0, as it does under DDP.
        """
        own: list[Tensor] = []
        watch = (lambda buffer: own.append(l2_norm(buffer))) if self._watched else None
        self._gradients = []  # lets go of the buffers of the window before
        self._gradients = self._reduction.reduce(watch)
        self._squares = [squared(own)] if own else []
        if self._has_buffers:
            self.share_buffers()
        return Reductions(len(self._gradients), sum(buffer.nbytes for buffer in self._gradients))

    def watch_parts(self, watch: bool) -> None:
        """Take the norm of this rank's own gradient from now on, or no more."""
        self._watched = watch

    def part_squares(self) -> list[Tensor]:
        """The squared norm of this rank's own gradient."""
        return self._squares

    def clip(self, max_norm: float | None) -> Tensor:
        """Clip the reduced gradient, in the flat buffers that hold it."""
        return clip_replicated(self._gradients, max_norm, self.rank, self.world_size)

    def reduce_over_ranks(self, values: Tensor, operation: Operation = "sum") -> PendingValues:
        """Begin to reduce a small vector over all ranks."""
        return ReducedValues(values, operation)

    def gather(self, value: Any) -> list[Any]:
        """A small object of every rank."""
        return gather(value)

    def share_buffers(self) -> None:
        """Give every rank the buffers of rank 0."""
        broadcast_from_first(self.model.buffers())
