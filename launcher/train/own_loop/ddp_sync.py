"""Gradient sync over the DistributedDataParallel of the user's own, which is left as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from launcher.train.engines.bucket_reduction import BucketReduction
from launcher.train.engines.gradients import touch_all
from launcher.train.engines.small_reductions import PendingValues, ReducedValues
from launcher.train.own_loop.sync import device_of, take_backward

_BUCKET_MB = 25.0  # as DDP's own


class _OwnDdp:
    """What both ways of reducing over the user's DDP have in common.

    Args:
        ddp: the user's DDP.
    """

    def __init__(self, ddp: DistributedDataParallel) -> None:
        self.module: nn.Module = ddp.module
        self.device = device_of(ddp)
        self._ddp = ddp
        self._group: dist.ProcessGroup = ddp.process_group
        self.rank = dist.get_rank(self._group)
        self.world_size = dist.get_world_size(self._group)

    def sum_over_ranks(self, values: Tensor) -> PendingValues:
        """Begin to add up a small vector over the ranks of the DDP."""
        return ReducedValues(values, "sum", self._group)


class AtBoundary(_OwnDdp):
    """DDP's own reduction, overlapped with the one backward of the boundary, which it averages.

    Args:
        ddp: the user's DDP.
        model: what the user calls: the DDP, or what it was compiled to.
    """

    def __init__(self, ddp: DistributedDataParallel, model: nn.Module) -> None:
        super().__init__(ddp)
        self._model = model
        self._will_reduce = True  # DDP was entered, or need not be

    @contextmanager
    def micro_step(self, *, boundary: bool) -> Iterator[None]:
        """Inside `no_sync`, but at the boundary."""
        if not boundary:
            with self._ddp.no_sync():
                yield
            return
        self._will_reduce = False
        entered = self._model.register_forward_pre_hook(self._on_forward)
        try:
            yield
        finally:
            entered.remove()
            self._will_reduce = True

    def _on_forward(self, model: nn.Module, inputs: Any) -> None:
        self._will_reduce |= torch.is_grad_enabled()

    def backward(self, part: Tensor, *, retain_graph: bool) -> None:
        """Take a loss backward; the gradients of all ranks are averaged at the boundary, so here it counts W times.

        Raises:
            RuntimeError: the loss is not of the model that reduces gradients.
        """
        if not self._will_reduce:
            raise RuntimeError(
                "the loss was not computed by calling the model that the Accumulator was given, so gradients would not "
                "be reduced: call that model, not the module inside of it"
            )
        take_backward(part * self.world_size, retain_graph=retain_graph)

    def without_data(self) -> None:
        """Give every parameter a gradient of zeros, by a forward pass that DDP knows of."""
        take_backward(_forward_without_data(self._ddp), retain_graph=False)

    def reduce(self) -> None:
        """Make sure that DDP did reduce: it says so at its next forward pass only, by when a wrong step was made."""
        try:
            self._ddp._check_reducer_finalized()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        except RuntimeError as error:
            raise RuntimeError(
                "gradients were not reduced, because the loss does not use every parameter: make the model a "
                "DistributedDataParallel(..., find_unused_parameters=True), or freeze those that it never uses"
            ) from error


class AfterLastBackward(_OwnDdp):
    """One all-reduce of each bucket after a window's last backward; DDP is kept from reducing.

    DDP takes the first gradient that a parameter gets after a forward pass for the last one of the window. With a
    backward for each of several losses it reduces too early and says nothing (measured, torch 2.13).

    Args:
        ddp: the user's DDP.
    """

    def __init__(self, ddp: DistributedDataParallel) -> None:
        super().__init__(ddp)
        reduced = [
            parameter
            for name, parameter in ddp.module.named_parameters()
            if parameter.requires_grad and name not in ddp.parameters_to_ignore
        ]
        self._reduction = BucketReduction(reduced, _BUCKET_MB, self.device, self._group)

    def micro_step(self, *, boundary: bool) -> AbstractContextManager[None]:
        """Inside `no_sync`."""
        no_sync: AbstractContextManager[None] = self._ddp.no_sync()
        return no_sync

    def backward(self, part: Tensor, *, retain_graph: bool) -> None:
        """Take a loss backward."""
        take_backward(part, retain_graph=retain_graph)

    def without_data(self) -> None:
        """Enter a forward pass as the other ranks do, for the buffers that DDP exchanges there."""
        with self._ddp.no_sync():
            _forward_without_data(self._ddp)

    def reduce(self) -> None:
        """Add the gradients of all ranks."""
        self._reduction.reduce()
        # As after a reduction of its own: DDP gives every rank the buffers of rank 0 at the next forward pass.
        self._ddp.require_forward_param_sync = True


class _TouchAll(nn.Module):
    """A forward pass without data: zero, from every trained parameter.

    Args:
        module: the module inside of the user's DDP.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, nothing: None) -> Tensor:
        """Zero, with its graph."""
        return touch_all(self.module)


def _forward_without_data(ddp: DistributedDataParallel) -> Tensor:
    """DDP's own forward pass, in which its module is for once another one, over the same parameters."""
    module = ddp.module
    ddp.module = _TouchAll(module)
    try:
        zero: Tensor = ddp(None)  # with GPUs, DDP cannot do without any argument
        return zero
    finally:
        ddp.module = module
