"""DistributedDataParallel: one reduction of the gradients per update, at the boundary."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from launcher.plan.windows import Window
from launcher.recipe.parallel_section import ParallelSection
from launcher.train.compiling import is_compiled
from launcher.train.engines.any_forward import AnyForward
from launcher.train.engines.base import Forward, Reductions
from launcher.train.engines.comm_hook import BucketLog, add_and_log
from launcher.train.engines.gradients import clip_replicated, squared, touch_all, trained_bytes
from launcher.train.engines.process_group import broadcast_from_first, gather
from launcher.train.engines.small_reductions import Operation, PendingValues, ReducedValues
from launcher.train.engines.whole_model import WholeModel


class DdpEngine(WholeModel):
    """Gradient sync by DistributedDataParallel over the default process group, overlapped with the last backward.

    One backward per micro-step: DDP takes the first gradient that a parameter gets after a forward pass for the last.

    Args:
        model: the model, on its device.
        device: that device.
        settings: the recipe's `parallel` section.
    """

    needs_every_gradient = True

    def __init__(self, model: nn.Module, device: torch.device, settings: ParallelSection) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = device
        self.model = model
        self._buckets = BucketLog()
        self._gradients: list[Tensor] = []  # of the window that is done
        self._own_norms: list[Tensor] = []
        self._gradient_bytes = trained_bytes(model)
        # DDP gives every rank the buffers of rank 0 as it enters a forward pass.
        self._has_buffers = any(True for _ in model.buffers())
        self._ddp = self._wrapped(AnyForward(model), settings)
        # The hook adds where DDP would average: the loss carries the one division. It also sees every reduction that
        # really happens, which is what the metrics report.
        self._ddp.register_comm_hook(self._buckets, add_and_log)
        self._arrange_buckets()

    def _wrapped(self, module: nn.Module, settings: ParallelSection) -> DistributedDataParallel:
        """What reduces the gradients of a module in its backward."""
        return DistributedDataParallel(
            module,
            bucket_cap_mb=settings.bucket_mb,
            find_unused_parameters=settings.find_unused_parameters,
            gradient_as_bucket_view=True,
        )

    def _not_reduced(self) -> AbstractContextManager[None]:
        """While it lasts, gradients of forward and backward stay with this rank."""
        context: AbstractContextManager[None] = self._ddp.no_sync()
        return context

    def _arrange_buckets(self) -> None:
        """Let DDP arrange its buckets now, by a backward whose gradients are zeros.

        It does so after its first backward, and with other buckets three ranks or more add in another order: an update
        after a resume would not be, bit for bit, the one that it was before (measured, torch 2.13).
        """
        _backward(self._ddp(touch_all))
        self._buckets.take()
        for parameter in self.model.parameters():
            parameter.grad = None

    def begin(self, window: Window, step: int) -> None:
        """The rank's own gradient is one sum, whichever micro-batch adds to it."""

    def micro_step(self, forward: Forward, *, boundary: bool) -> None:
        """Forward and backward, inside `no_sync` but at the boundary.

        What is compiled within DDP is cut at its buckets, so that they are reduced while the backward goes on: one way
        in means one graph for all micro-steps.
        """
        if boundary:
            _backward(self._ddp(forward))
            return
        with self._not_reduced():
            _backward(self._ddp(forward) if self._has_buffers or is_compiled(self.model) else forward(self.model))

    def reduce(self) -> Reductions:
        """The all-reduces of the window, held against one copy of the gradients.

        DDP reduces nothing when a parameter has no gradient, and says so only at the next forward pass, if there is
        one: by then a wrong step was made.
        """
        self._gradients, self._own_norms = self._buckets.take()
        reductions = Reductions(len(self._gradients), sum(bucket.nbytes for bucket in self._gradients))
        if reductions.bytes != self._gradient_bytes:
            raise RuntimeError(
                f"{reductions.bytes} bytes of gradients were reduced instead of {self._gradient_bytes}: the loss does "
                "not use every parameter. Set parallel.find_unused_parameters=true, or freeze those it never uses"
            )
        return reductions

    def watch_parts(self, watch: bool) -> None:
        """Take the norm of this rank's own gradient from now on, or no more."""
        self._buckets.take_norms = watch

    def part_squares(self) -> list[Tensor]:
        """The squared norm of this rank's own gradient."""
        return [squared(self._own_norms)] if self._own_norms else []

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


def _backward(loss: Tensor | None) -> None:
    if loss is None:
        raise RuntimeError("DdpEngine takes the loss of a micro-step backward itself, once")
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
