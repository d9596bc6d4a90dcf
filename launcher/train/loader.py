"""Windows with their data: this rank's micro-batches, in the order of the plan, on the device of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from launcher.plan.order import Positions, sample_order
from launcher.plan.windows import MicroBatch, Window
from launcher.train.accumulation import LoadedWindow, MicroBatchData
from launcher.train.engines.base import Engine
from launcher.train.engines.small_reductions import PendingValues
from launcher.train.loading_processes import loaded_by_processes
from launcher.train.samples import KeyedBatches, Wanted
from launcher.train.task import SampleSource, Task, tensors_of
from launcher.train.task_losses import TaskLosses

_W = TypeVar("_W")
_AHEAD = 65_536  # positions whose order is computed at once: numpy costs about the same for one as for a thousand
_COUNTED_TOGETHER = 1024  # samples of windows whose counts share an all-reduce, which costs as much as a tiny update


@dataclass(frozen=True)
class Share:
    """What one rank takes of one window.

    Attributes:
        window: the window.
        micro_batches: the rank's micro-batches; it may have none.
        order: int64, the sample indices of all of them, one after the other.
    """

    window: Window
    micro_batches: tuple[MicroBatch, ...]
    order: Positions

    @property
    def sizes(self) -> list[int]:
        """Samples of each micro-batch."""
        return [micro_batch.samples for micro_batch in self.micro_batches]

    def indices(self) -> Iterator[list[int]]:
        """The sample indices of each micro-batch."""
        order = iter(self.order.tolist())
        return (list(islice(order, size)) for size in self.sizes)

    def wanted(self) -> Iterator[Wanted]:
        """The samples of each micro-batch."""
        return (Wanted(self.window.epoch, indices) for indices in self.indices())


def shares_of_rank(windows: Iterable[Window], rank: int, length: int, seed: int) -> Iterator[Share]:
    """This rank's share of every window.

    Args:
        windows: the windows of the run.
        rank: the rank.
        length: samples in the training data.
        seed: the recipe's seed, which fixes the order of every epoch.
    """
    for block in _blocks(windows, lambda window: window.samples, _AHEAD):
        for epoch, of_epoch in groupby(block, key=lambda window: window.epoch):
            order = partial(sample_order, length=length, seed=seed, epoch=epoch)
            yield from _shares_of_epoch(list(of_epoch), rank, order)


def _blocks(windows: Iterable[_W], samples_of: Callable[[_W], int], enough: int) -> Iterator[list[_W]]:
    """Windows together that have about so many samples, at least one; they may be of very different sizes."""
    block: list[_W] = []
    samples = 0
    for window in windows:
        block.append(window)
        samples += samples_of(window)
        if samples >= enough:
            yield block
            block, samples = [], 0
    if block:
        yield block


def _shares_of_epoch(
    windows: Sequence[Window], rank: int, order_at: Callable[[Positions], Positions]
) -> Iterator[Share]:
    """The shares of windows of one epoch, whose orders are computed together."""
    mine = [window.micro_batches(rank) for window in windows]
    spans = [_span(parts) for parts in mine]
    order = order_at(np.concatenate(spans))
    ends = np.cumsum([len(span) for span in spans])
    for window, parts, share in zip(windows, mine, np.split(order, ends[:-1]), strict=True):
        yield Share(window, parts, share)


def _span(parts: Sequence[MicroBatch]) -> Positions:
    """The positions of micro-batches that follow one another."""
    return np.arange(parts[0].first, parts[-1].first + parts[-1].samples) if parts else np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class _Counted:
    """A window whose items are counted on this rank."""

    window: Window
    batches: list[Any]
    items: list[dict[str, int]]

    def of_loss(self, name: str) -> int:
        """The items of one loss on this rank."""
        return sum(items[name] for items in self.items)


@dataclass(frozen=True)
class _BeingAdded:
    """Windows whose counts are being added up over the ranks, together."""

    windows: list[_Counted]
    totals: PendingValues


class WindowLoader:
    """Iterates over windows with this rank's micro-batches, loaded here or in worker processes.

    Where items depend on the data, windows are loaded and counted while those before them are computed, and the counts
    of all ranks are added in the background.

    Args:
        losses: the losses of the task, for the items that they count.
        task: the task, for its `collate`.
        data: the training data.
        shares: this rank's shares, window by window.
        engine: adds the counts.
        workers: data-loading processes; 0 loads in this one.
        seed: the recipe's seed, for what samples draw at random.
        apart: give each micro-batch a memory of its own. As views of a window's, they would lie at other places on
            other numbers of ranks, and the bits of products may follow from where their factors lie.

    Attributes:
        waited: seconds that windows waited for their counts so far.
    """

    def __init__(
        self,
        losses: TaskLosses,
        task: Task,
        data: SampleSource,
        shares: Iterable[Share],
        engine: Engine,
        workers: int,
        seed: int = 0,
        apart: bool = False,
    ) -> None:
        self.waited = 0.0
        self._losses = losses
        self._batches = KeyedBatches(task, data, seed)
        self._shares = shares
        self._engine = engine
        self._workers = workers
        self._tensors = None if workers or apart else tensors_of(task, data)

    def __iter__(self) -> Iterator[LoadedWindow]:
        return self._counted() if self._losses.count_items else self._as_planned()

    def filler(self, samples: int) -> MicroBatchData:
        """A micro-batch that a rank computes with weight zero, while others are at one of their own.

        It has the first samples of the data that every loss has items in, so that no mean over nothing spoils it.

        Args:
            samples: how many it has, at most.

        Raises:
            ValueError: there are none.
        """
        move = to_device(self._engine.device)
        for first in range(0, len(self._batches), samples):
            indices = list(range(first, min(first + samples, len(self._batches))))
            (batch,) = self._batches.here([Wanted(0, indices)])
            items = self._losses.items(batch, len(indices))
            if all(items.values()):
                return MicroBatchData(move(batch), items)
        raise ValueError(f"no {samples} samples that follow one another have items of every loss")

    def _as_planned(self) -> Iterator[LoadedWindow]:
        """Items are samples: the plan knows their number, and nothing is communicated."""
        move, names = to_device(self._engine.device), self._losses.names
        for share, batches in self._loaded():
            micro_batches = tuple(
                MicroBatchData(move(batch), dict.fromkeys(names, micro_batch.samples))
                for batch, micro_batch in zip(batches, share.micro_batches, strict=True)
            )
            yield LoadedWindow(share.window, micro_batches, (share.window.samples,) * len(names))

    def _counted(self) -> Iterator[LoadedWindow]:
        """Items depend on the data: the windows ahead are counted before those at hand are handed out.

        That is one window where it must be loaded, and several small ones where the data are tensors already.
        """
        enough = 1 if self._tensors is None else _COUNTED_TOGETHER
        at_hand: _BeingAdded | None = None
        for loaded in _blocks(self._loaded(), lambda loaded: loaded[0].window.samples, enough):
            ahead = self._add([self._count(share, batches) for share, batches in loaded])
            if at_hand is not None:
                yield from self._with_totals(at_hand)
            at_hand = ahead
        if at_hand is not None:
            yield from self._with_totals(at_hand)

    def _count(self, share: Share, batches: list[Any]) -> _Counted:
        items = [
            self._losses.items(batch, micro_batch.samples)
            for batch, micro_batch in zip(batches, share.micro_batches, strict=True)
        ]
        return _Counted(share.window, batches, items)

    def _add(self, windows: list[_Counted]) -> _BeingAdded:
        own = [window.of_loss(name) for window in windows for name in self._losses.names]
        return _BeingAdded(windows, self._engine.reduce_over_ranks(torch.tensor(own, dtype=torch.int64)))

    def _with_totals(self, added: _BeingAdded) -> Iterator[LoadedWindow]:
        since = perf_counter()
        totals = iter(added.totals.read())
        self.waited += perf_counter() - since
        move = to_device(self._engine.device)
        for counted in added.windows:
            micro_batches = tuple(
                MicroBatchData(move(batch), items) for batch, items in zip(counted.batches, counted.items, strict=True)
            )
            yield LoadedWindow(
                counted.window, micro_batches, tuple(int(total) for total in islice(totals, len(self._losses.names)))
            )

    def _loaded(self) -> Iterator[tuple[Share, list[Any]]]:
        if self._tensors is not None:
            yield from self._sliced(self._tensors)
        elif self._workers:
            yield from self._loaded_by_processes()
        else:
            for share in self._shares:
                yield share, self._batches.here(list(share.wanted()))

    def _sliced(self, tensors: tuple[Tensor, ...]) -> Iterator[tuple[Share, list[Any]]]:
        """Data that is tensors already: one indexing per window, of which micro-batches are views."""
        for share in self._shares:
            if not share.micro_batches:
                yield share, []
                continue
            rows, sizes = torch.from_numpy(share.order), share.sizes
            columns = [torch.split(tensor.index_select(0, rows), sizes) for tensor in tensors]
            yield share, [list(parts) for parts in zip(*columns, strict=True)]

    def _loaded_by_processes(self) -> Iterator[tuple[Share, list[Any]]]:
        taken: list[Share] = []

        def wanted() -> Iterator[Wanted]:
            for share in self._shares:
                taken.append(share)
                yield from share.wanted()

        pinned = self._engine.device.type == "cuda"
        batches = loaded_by_processes(self._batches, wanted, self._workers, pinned)
        for first in batches:
            share = taken.pop(0)
            while not share.micro_batches:
                yield share, []
                share = taken.pop(0)
            yield share, [first, *islice(batches, len(share.micro_batches) - 1)]
        for share in taken:  # of which none has a micro-batch
            yield share, []


def to_device(device: torch.device) -> Callable[[Any], Any]:
    """A function that moves the tensors of a batch, in tuples, lists and dicts too, to a device."""
    if device.type == "cpu":
        return lambda batch: batch

    def move(batch: Any) -> Any:
        if isinstance(batch, Tensor):
            return batch.to(device, non_blocking=True)
        if isinstance(batch, dict):
            return {key: move(value) for key, value in batch.items()}
        if isinstance(batch, tuple) and hasattr(batch, "_fields"):
            return type(batch)(*(move(value) for value in batch))
        if isinstance(batch, list | tuple):
            return type(batch)(move(value) for value in batch)
        return batch

    return move
