"""Gradients of all ranks added in the order of a tree over the virtual ranks, the same bits on any number of ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from launcher.plan.exact import Node, TreeSum, copies_per_update, partial_sums

_AHEAD = 2  # buckets whose partial sums are under way while those of later ones are still being computed


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


@dataclass(frozen=True)
class _UnderWay:
    """A bucket whose partial sums are on their way; what is sent must last until it has arrived."""

    send: Tensor
    receive: Tensor
    work: dist.Work | None
    values: int


@dataclass(frozen=True)
class _Gathering:
    """A bucket whose parts, which the ranks have added up, are on their way to all."""

    whole: Tensor
    everything: Tensor
    work: dist.Work | None
    values: int


class TreeExchange:
    """Makes the whole sum of the partial sums of all ranks.

    Each rank evaluates the tree for its own part of every bucket: partial sums go all to all, and the parts are then
    gathered. Where ranks own aligned blocks of virtual ranks, that is as many bytes as a ring all-reduce takes.

    Which calls follow one another is the same on all ranks whenever each of them begins a bucket: the sums of a bucket
    are gathered once the next few were begun, and not when they happen to be there.

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
        self._under_way: deque[_UnderWay] = deque()
        self._gathering: deque[_Gathering] = deque()
        self._sums: list[Tensor] = []
        self._bytes = 0
        self._aside: torch.cuda.Stream | None = None

    def add(self, own: Sequence[Sequence[Tensor]]) -> Exchanged:
        """Add the partial sums of all ranks.

        Args:
            own: those of this rank, from the left to the right: of each, one flat buffer for each bucket.
        """
        if self._world_size == 1:
            ((*sums,),) = own
            return Exchanged([_without_minus_zeros(buffer) for buffer in sums], 0, 0)
        for buffers in zip(*own, strict=True):
            self.begin(buffers)
        return self.end()

    def begin(self, own: Sequence[Tensor]) -> None:
        """Send this rank's partial sums of the next bucket; all ranks take the buckets in the same order.

        It waits for a bucket begun some time before, if that has not arrived. There must be more than one rank.

        Args:
            own: the partial sums from the left to the right, flat; they may change afterwards.
        """
        values = own[0].numel()
        part = -(-values // self._world_size)
        send = _in_parts(own, self._world_size, part)
        sizes = [part * len(nodes) for nodes in self._nodes]
        receive = send.new_empty(sum(sizes))
        work = dist.all_to_all_single(receive, send, sizes, [part * len(own)] * self._world_size, async_op=True)
        self._under_way.append(_UnderWay(send, receive, work, values))
        self._bytes += own[0].nbytes
        if len(self._under_way) > _AHEAD:
            self._gather()

    def end(self) -> Exchanged:
        """The sums of the buckets that were begun since the last end, in their order."""
        while self._under_way:
            self._gather()
        while self._gathering:
            self._take()
        if self._aside is not None:
            torch.cuda.current_stream(self._aside.device).wait_stream(self._aside)
        sums, moved = self._sums, int(self._bytes * copies_per_update(self._world_size, self._virtual_ranks))
        self._sums, self._bytes = [], 0
        return Exchanged(sums, 2 * len(sums), moved)

    def _gather(self) -> None:
        """Add up this rank's part of the oldest bucket under way, and begin to gather the parts."""
        bucket = self._under_way.popleft()
        with self._beside_the_backward(bucket.send, bucket.receive):
            _wait(bucket.work)
            whole = self._evaluate(bucket.receive)
            everything = whole.new_empty(whole.numel() * self._world_size)
            work = dist.all_gather(list(everything.chunk(self._world_size)), whole, async_op=True)
        self._gathering.append(_Gathering(whole, everything, work, bucket.values))
        if len(self._gathering) > _AHEAD:
            self._take()

    def _take(self) -> None:
        """Take the oldest bucket that is being gathered, and let go of what it was made of."""
        bucket = self._gathering.popleft()
        with self._beside_the_backward(bucket.whole):
            _wait(bucket.work)
        self._sums.append(bucket.everything[: bucket.values])

    @contextmanager
    def _beside_the_backward(self, *used: Tensor) -> Iterator[None]:
        """On a GPU, a stream of its own: what waits for other ranks there does not hold up the backward.

        Args:
            used: what is used there, and of the backward's stream; its memory is not given to others before.
        """
        device = used[0].device
        if device.type != "cuda":
            yield
            return
        if self._aside is None:
            self._aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._aside.wait_stream(torch.cuda.current_stream(device))
        for tensor in used:
            tensor.record_stream(self._aside)
        with torch.cuda.stream(self._aside):
            yield

    def _evaluate(self, receive: Tensor) -> Tensor:
        """The whole sum of this rank's part of a bucket, of all partial sums one after the other."""
        tree: TreeSum[Tensor] = TreeSum(self._virtual_ranks, lambda left, right: left.add_(right))
        nodes: list[Node] = [node for of_rank in self._nodes for node in of_rank]
        for node, values in zip(nodes, receive.chunk(len(nodes)), strict=True):
            tree.put(node, values)
        ((_, whole),) = tree.take()
        return _without_minus_zeros(whole)


def _in_parts(buffers: Sequence[Tensor], world_size: int, part: int) -> Tensor:
    """What goes to each rank in turn: its part of all buffers, filled up with zeros at the end; a copy."""
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
