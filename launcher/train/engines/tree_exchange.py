"""Gradients of all ranks added in the order of a tree over the virtual ranks, the same bits on any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from launcher.plan.exact import Node, TreeSum, copies_per_update, partial_sums


@dataclass(frozen=True)
class Exchanged:
    """What became of the buckets.

    Attributes:
        sums: one flat buffer for each bucket, the same on every rank.
        calls: collective calls that were made.
        bytes: what all-reduces are handed that move as much as the busiest rank moves.
    """

    sums: list[Tensor]
    calls: int
    bytes: int


class TreeExchange:
    """Makes the whole sum of the partial sums of all ranks.

    Each rank evaluates the tree for its own part of every bucket: partial sums go all to all, and the parts are then
    gathered. Where ranks own aligned blocks of virtual ranks, that is as many bytes as a ring all-reduce takes.

    Args:
        rank: this rank.
        world_size: how many there are, W.
        virtual_ranks: leaves of the tree, V.
    """

    def __init__(self, rank: int, world_size: int, virtual_ranks: int) -> None:
        self._rank = rank
        self._world_size = world_size
        self._virtual_ranks = virtual_ranks
        self._nodes = [partial_sums(other, world_size, virtual_ranks) for other in range(world_size)]

    def add(self, own: Sequence[Sequence[Tensor]]) -> Exchanged:
        """Add the partial sums of all ranks.

        Args:
            own: those of this rank, from the left to the right: of each, one flat buffer for each bucket.
        """
        if self._world_size == 1:
            ((*sums,),) = own
            return Exchanged([_without_minus_zeros(buffer) for buffer in sums], 0, 0)
        sent, received, work = [], [], []  # what is sent must last until it has arrived
        for buffers in zip(*own, strict=True):
            part = -(-buffers[0].numel() // self._world_size)
            send = _in_parts(buffers, self._world_size, part)
            sizes = [part * len(nodes) for nodes in self._nodes]
            receive = send.new_empty(sum(sizes))
            work.append(
                dist.all_to_all_single(receive, send, sizes, [part * len(buffers)] * self._world_size, async_op=True)
            )
            sent.append(send)
            received.append(receive)
        gathered, gathering = [], []
        for receive, transfer in zip(received, work, strict=True):
            _wait(transfer)
            whole = self._evaluate(receive)
            everything = whole.new_empty(whole.numel() * self._world_size)
            gathering.append(dist.all_gather(list(everything.chunk(self._world_size)), whole, async_op=True))
            gathered.append(everything)
        for transfer in gathering:
            _wait(transfer)
        sums = [everything[: buffer.numel()] for everything, buffer in zip(gathered, own[0], strict=True)]
        moved = sum(buffer.nbytes for buffer in own[0]) * copies_per_update(self._world_size, self._virtual_ranks)
        return Exchanged(sums, 2 * len(sums), int(moved))

    def _evaluate(self, receive: Tensor) -> Tensor:
        """The whole sum of this rank's part of a bucket, of all partial sums one after the other."""
        tree: TreeSum[Tensor] = TreeSum(self._virtual_ranks, lambda left, right: left.add_(right))
        nodes: list[Node] = [node for of_rank in self._nodes for node in of_rank]
        for node, values in zip(nodes, receive.chunk(len(nodes)), strict=True):
            tree.put(node, values)
        ((_, whole),) = tree.take()
        return _without_minus_zeros(whole)


def _in_parts(buffers: Sequence[Tensor], world_size: int, part: int) -> Tensor:
    """What goes to each rank in turn: its part of all buffers, filled up with zeros at the end."""
    send = buffers[0].new_zeros(world_size, len(buffers), part)
    for index, buffer in enumerate(buffers):
        for rank, values in enumerate(torch.split(buffer, part)):
            send[rank, index, : values.numel()] = values
    return send.flatten()


def _without_minus_zeros(values: Tensor) -> Tensor:
    """The same values: which zeros have a sign may follow from where a rank added zeros of its own."""
    return values.add_(0.0)


def _wait(work: dist.Work | None) -> None:
    if work is None:
        raise RuntimeError("this rank is not part of the process group")
    work.wait()
