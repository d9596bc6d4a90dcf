"""Gradients whose bits do not depend on the number of ranks: those of virtual ranks, added in the order of a tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from launcher.errors import Mistake, RequestError
from launcher.plan.exact import Node, TreeSum, overlaps
from launcher.plan.windows import Window, virtual_ranks_of
from launcher.recipe.parallel_section import ParallelSection
from launcher.train.engines.base import Forward, Reductions
from launcher.train.engines.bucket_reduction import flat_gradient, in_buckets
from launcher.train.engines.filling import FillingBuckets
from launcher.train.engines.gradients import clip_to_norm, l2_norm, squared, squared_norm, trained
from launcher.train.engines.process_group import broadcast_from_first, gather
from launcher.train.engines.small_reductions import LocalValues, Operation, PendingValues, ReducedValues
from launcher.train.engines.tree_exchange import Exchanged, TreeExchange
from launcher.train.engines.whole_model import WholeModel


class ExactEngine(WholeModel):
    """Gradient sync in one order of additions, whatever the number of ranks.

    Each virtual rank adds the gradients of its micro-batches in turn; a balanced binary tree adds those of the virtual
    ranks. Of its own virtual ranks a rank holds log2(V/W) + 1 partial sums at most.

    Where every rank is one virtual rank (W = V), buckets are exchanged while the boundary's backward fills them. They
    are exchanged after it, with the same bits:
    - where a rank has several virtual ranks, whose sums are whole only when the last of them is;
    - where a micro-step has several backwards (the editions sequential and shared), or a rank has no micro-step: after
      all but the last backward gradients are not whole;
    - of a bucket that the backward does not fill, since it does not reach all parameters, and of those behind it: that
      no gradient will come is not known before the end.
    Where a gradient changes when its bucket is gone (backwards within the backward), the bucket is exchanged again;
    from then on all ranks exchange after the backward.

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
        self._overlaps = overlaps(world_size, virtual_ranks)
        self._filling = FillingBuckets(self._buckets, self._send)
        self._virtual = self._owned.start  # the one that gradients are added to
        self._used = [False] * len(self._parameters)
        self._gradients: list[Tensor] = []
        self._buffers: dict[str, tuple[Tensor, int]] = {}
        self._values: dict[str, Tensor] | None = None  # of the buffers, in the first window
        self._watched = False
        self._norms: dict[int, Tensor] = {}  # of the buckets that were sent
        self._squares: list[Tensor] = []
        self._parts: list[Tensor] = []
        if world_size > 1:
            broadcast_from_first([*model.parameters(), *model.buffers()])

    def begin(self, window: Window, step: int) -> None:
        """Go on to the virtual rank that the micro-batch belongs to."""
        if step == 0:
            self._buffers = {name: (buffer, buffer._version) for name, buffer in self.model.named_buffers()}
            # PyTorch counts no version of what its own layers change in one pass (InstanceNorm): look at it once.
            looks = self._values is None
            self._values = {name: buffer.clone() for name, buffer in self.model.named_buffers()} if looks else {}
        ends = 0
        for virtual, steps in zip(self._owned, window.virtual_steps(self.rank), strict=True):
            ends += steps
            if step < ends:
                self._end_virtual_ranks(virtual)
                return

    def micro_step(self, forward: Forward, *, boundary: bool) -> None:
        """Forward and backward; at the boundary gradients may be exchanged meanwhile.

        Raises:
            RequestError: the forward pass changed a buffer of the model.
        """
        loss = forward(self.model)
        if loss is None:
            return
        if boundary and self._overlaps:
            self._refuse_changed_buffers()  # before any rank waits for another
            with self._filling.during_backward():
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        else:
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def reduce(self) -> Reductions:
        """Add the gradients of all virtual ranks; a parameter that got none in the window keeps none.

        Raises:
            RequestError: forward passes changed a buffer of the model, which each rank would then have its own of.
        """
        self._refuse_changed_buffers()
        self._buffers = {}
        self._gradients = []  # lets go of the buffers of the window before
        exchanged = self._end_bucket_by_bucket() if self._overlaps else self._add_partial_sums()
        self._gradients = exchanged.sums
        for bucket, buffer in zip(self._buckets, self._gradients, strict=True):
            views = torch.split(buffer, [parameter.numel() for parameter in bucket])
            for parameter, view in zip(bucket, views, strict=True):
                parameter.grad = view.view_as(parameter)
        for parameter, used in zip(self._parameters, self._used, strict=True):
            if not used:
                parameter.grad = None
        self._used = [False] * len(self._parameters)
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
            self._note_used()
            buffers = [self._taken(bucket) for bucket in self._buckets]
            if self._watched:
                self._squares.append(squared_norm(buffers))
            self._tree.put(Node(0, self._virtual), buffers)
            self._virtual += 1

    def _add_partial_sums(self) -> Exchanged:
        """Add those of all ranks, after the last backward."""
        self._end_virtual_ranks(self._owned.stop)
        self._virtual = self._owned.start
        used = self._of_any_rank(self._used)
        exchanged = self._exchange.add([buffers for _, buffers in self._tree.take()])
        self._used = _flags(used)
        return exchanged

    def _send(self, index: int) -> None:
        """Begin to add a bucket of this rank's one virtual rank to those of the others."""
        buffer = _flat(self._buckets[index])
        if self._watched:
            self._norms[index] = l2_norm(buffer)
        self._exchange.begin([buffer])

    def _end_bucket_by_bucket(self) -> Exchanged:
        """Send the buckets that the backward did not, and end the exchange of all."""
        late = self._filling.rest()
        self._note_used()
        found = self._of_any_rank([*self._used, *late])
        exchanged = self._exchange.end()
        flags = _flags(found)
        self._used, late = flags[: len(self._used)], flags[len(self._used) :]
        if any(late):
            exchanged = self._again(exchanged, [index for index, is_late in enumerate(late) if is_late])
        if self._watched:
            self._squares = [squared([self._norms[index] for index in range(len(self._buckets))])]
        return exchanged

    def _again(self, exchanged: Exchanged, late: Sequence[int]) -> Exchanged:
        """Exchange buckets again that the backward went on to change on some rank; all ranks know which."""
        self._overlaps = False
        for index in late:
            self._send(index)
        again = self._exchange.end()
        sums = list(exchanged.sums)
        for index, whole in zip(late, again.sums, strict=True):
            sums[index] = whole
        return Exchanged(sums, exchanged.calls + again.calls, exchanged.bytes + again.bytes)

    def _taken(self, bucket: Sequence[nn.Parameter]) -> Tensor:
        """The gradients of a bucket, whose parameters let go of them: no more than one bucket is there twice."""
        buffer = _flat(bucket)
        for parameter in bucket:
            parameter.grad = None
        return buffer

    def _note_used(self) -> None:
        self._used = [
            used or parameter.grad is not None for used, parameter in zip(self._used, self._parameters, strict=True)
        ]

    def _of_any_rank(self, flags: Sequence[bool]) -> PendingValues:
        return self.reduce_over_ranks(torch.tensor(flags, dtype=torch.uint8), "max")

    def _refuse_changed_buffers(self) -> None:
        for name, buffer in self.model.named_buffers():
            noted, version = self._buffers.get(name, (buffer, buffer._version))
            values = (self._values or {}).get(name)
            changed = values is not None and not torch.equal(_bytes_of(values), _bytes_of(buffer))
            if noted is not buffer or version != buffer._version or changed:
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


def _flat(bucket: Sequence[nn.Parameter]) -> Tensor:
    return torch.cat([flat_gradient(parameter) for parameter in bucket])


def _flags(values: PendingValues) -> list[bool]:
    return [bool(value) for value in values.read()]


def _added(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    torch._foreach_add_(left, right)
    return left


def _bytes_of(values: Tensor) -> Tensor:
    return values.detach().flatten().view(torch.uint8)
