"""Gradients whose bits do not depend on the number of ranks: those of virtual ranks, added in the order of a tree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from launcher.errors import Mistake, RequestError
from launcher.plan.exact import Node, TreeSum
from launcher.plan.windows import Window, virtual_ranks_of
from launcher.recipe.schema import ParallelSection
from launcher.train.engines.base import Forward, Reductions
from launcher.train.engines.bucket_reduction import flat_gradient, in_buckets
from launcher.train.engines.gradients import clip_to_norm, squared_norm, trained
from launcher.train.engines.process_group import broadcast_from_first, gather
from launcher.train.engines.small_reductions import LocalValues, Operation, PendingValues, ReducedValues
from launcher.train.engines.tree_exchange import TreeExchange


class ExactEngine:
    """Gradient sync in one order of additions, whatever the number of ranks.

    Each virtual rank adds the gradients of its micro-batches in turn; a balanced binary tree adds those of the virtual
    ranks. Of its own virtual ranks a rank holds log2(V/W) + 1 partial sums at most.

    Args:
        model: the model, on its device.
        device: that device.
        settings: the recipe's `parallel` section.
        world_size: number of ranks, W; with more than one the process group must be up.
        virtual_ranks: number of virtual ranks, V, at least W.
    """

    needs_every_gradient = False

    def __init__(
        self, model: nn.Module, device: torch.device, settings: ParallelSection, world_size: int, virtual_ranks: int
    ) -> None:
        self.rank = torch.distributed.get_rank() if world_size > 1 else 0
        self.world_size = world_size
        self.device = device
        self.model = model
        self._parameters = trained(model)
        # In the order in which backward reaches them, as DDP has them.
        self._buckets = list(in_buckets(reversed(self._parameters), settings.bucket_mb * 2**20))
        self._owned = virtual_ranks_of(self.rank, world_size, virtual_ranks)
        self._tree: TreeSum[list[Tensor]] = TreeSum(virtual_ranks, _added)
        self._exchange = TreeExchange(self.rank, world_size, virtual_ranks)
        self._virtual = self._owned.start  # the one that gradients are added to
        self._used = [False] * len(self._parameters)
        self._gradients: list[Tensor] = []
        self._buffers: dict[str, tuple[Tensor, int]] = {}
        self._watched = False
        self._squares: list[Tensor] = []
        self._parts: list[Tensor] = []
        if world_size > 1:
            broadcast_from_first([*model.parameters(), *model.buffers()])

    def begin(self, window: Window, step: int) -> None:
        """Go on to the virtual rank that the micro-batch belongs to."""
        if step == 0:
            self._buffers = {name: (buffer, buffer._version) for name, buffer in self.model.named_buffers()}
        ends = 0
        for virtual, steps in zip(self._owned, window.virtual_steps(self.rank), strict=True):
            ends += steps
            if step < ends:
                self._end_virtual_ranks(virtual)
                return

    def micro_step(self, forward: Forward, *, boundary: bool) -> None:
        """Forward and backward; nothing is reduced before `reduce`."""
        loss = forward(self.model)
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def reduce(self) -> Reductions:
        """Add the gradients of all virtual ranks; a parameter that got none in the window keeps none.

        Raises:
            RequestError: forward passes changed a buffer of the model, which each rank would then have its own of.
        """
        self._refuse_changed_buffers()
        self._gradients = []  # lets go of the buffers of the window before
        self._end_virtual_ranks(self._owned.stop)
        self._virtual = self._owned.start
        used = self.reduce_over_ranks(torch.tensor(self._used, dtype=torch.uint8), "max")
        self._used = [False] * len(self._parameters)
        exchanged = self._exchange.add([buffers for _, buffers in self._tree.take()])
        self._gradients = exchanged.sums
        for bucket, buffer in zip(self._buckets, self._gradients, strict=True):
            views = torch.split(buffer, [parameter.numel() for parameter in bucket])
            for parameter, view in zip(bucket, views, strict=True):
                parameter.grad = view.view_as(parameter)
        for parameter, has_gradient in zip(self._parameters, used.read(), strict=True):
            if not has_gradient:
                parameter.grad = None
        self._parts, self._squares = self._squares, []
        return Reductions(exchanged.calls, exchanged.bytes)

    def watch_parts(self, watch: bool) -> None:
        """Take the norm of each virtual rank's own gradient from now on, or no more."""
        self._watched = watch

    def part_squares(self) -> list[Tensor]:
        """The squared norm of the gradient of each virtual rank of this rank, zero where it has no micro-batches."""
        return self._parts

    def clip(self, max_norm: float | None) -> Tensor:
        """Clip the reduced gradient; its norm is added up in one order on every rank, not in the ranks' parts."""
        square = squared_norm(self._gradients) if max_norm is None else clip_to_norm(self._gradients, max_norm)
        return square if self.rank == 0 else torch.zeros_like(square)

    def reduce_over_ranks(self, values: Tensor, operation: Operation = "sum") -> PendingValues:
        """Begin to reduce a small vector over all ranks."""
        return ReducedValues(values, operation) if self.world_size > 1 else LocalValues(values)

    def gather(self, value: Any) -> list[Any]:
        """A small object of every rank."""
        return gather(value) if self.world_size > 1 else [value]

    def share_buffers(self) -> None:
        """All ranks have the same already: no forward pass changes them."""

    def _end_virtual_ranks(self, before: int) -> None:
        """Give the tree the gradients of the virtual ranks before one, which have all their micro-batches by now."""
        while self._virtual < before:
            self._used = [
                used or parameter.grad is not None for used, parameter in zip(self._used, self._parameters, strict=True)
            ]
            buffers = [torch.cat([flat_gradient(parameter) for parameter in bucket]) for bucket in self._buckets]
            if self._watched:
                self._squares.append(squared_norm(buffers))
            for parameter in self._parameters:
                parameter.grad = None
            self._tree.put(Node(0, self._virtual), buffers)
            self._virtual += 1

    def _refuse_changed_buffers(self) -> None:
        for name, buffer in self.model.named_buffers():
            noted, version = self._buffers.get(name, (buffer, buffer._version))
            if noted is not buffer or version != buffer._version:
                raise RequestError(
                    [
                        Mistake(
                            "train.determinism",
                            f"exact cannot be: forward passes change {name} of the model, in an order that follows "
                            "from the number of ranks",
                            "Use GroupNorm or LayerNorm in place of BatchNorm, or set train.determinism=same-world",
                        )
                    ]
                )
        self._buffers = {}


def _added(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    torch._foreach_add_(left, right)
    return left
