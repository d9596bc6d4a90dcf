"""Windows with their data: this rank's micro-batches, in the order of the plan, on the device of the model."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from launcher.plan.order import Positions, sample_order
from launcher.plan.windows import MicroBatch, Window
from launcher.train.accumulator import MicroBatchData
from launcher.train.task import SampleSource, Task, fetch, tensors_of

_AHEAD = 65_536  # positions whose order is computed at once: numpy costs about the same for one as for a thousand


@dataclass(frozen=True)
class Share:
    """What one rank takes of one window.

    Attributes:
        window: the window.
        micro_batches: the rank's micro-batches; for a rank that has none, the window's first one as a filler.
        counted: False for a filler, which takes part with weight zero.
        order: int64, the sample indices of all of them, one after the other.
    """

    window: Window
    micro_batches: tuple[MicroBatch, ...]
    counted: bool
    order: Positions

    @property
    def sizes(self) -> list[int]:
        """Samples of each micro-batch."""
        return [micro_batch.samples for micro_batch in self.micro_batches]

    def indices(self) -> Iterator[list[int]]:
        """The sample indices of each micro-batch."""
        order = iter(self.order.tolist())
        return (list(islice(order, size)) for size in self.sizes)


def shares_of_rank(windows: Iterable[Window], rank: int, length: int, seed: int) -> Iterator[Share]:
    """This rank's share of every window.

    Args:
        windows: the windows of the run.
        rank: the rank.
        length: samples in the training data.
        seed: the recipe's seed, which fixes the order of every epoch.
    """
    remaining = iter(windows)
    for first in remaining:
        block = [first, *islice(remaining, _AHEAD // first.samples)]
        for epoch, of_epoch in groupby(block, key=lambda window: window.epoch):
            order = partial(sample_order, length=length, seed=seed, epoch=epoch)
            yield from _shares_of_epoch(list(of_epoch), rank, order)


def _shares_of_epoch(
    windows: Sequence[Window], rank: int, order_at: Callable[[Positions], Positions]
) -> Iterator[Share]:
    """The shares of windows of one epoch, whose orders are computed together."""
    own = [window.micro_batches(rank) for window in windows]
    # A filler is a whole micro-batch that another rank has too: a model that takes that one takes this one.
    mine = [parts or window.micro_batches(0)[:1] for window, parts in zip(windows, own, strict=True)]
    spans = [np.arange(parts[0].first, parts[-1].first + parts[-1].samples) for parts in mine]
    order = order_at(np.concatenate(spans))
    ends = np.cumsum([len(span) for span in spans])
    for window, parts, counted, share in zip(windows, mine, own, np.split(order, ends[:-1]), strict=True):
        yield Share(window, parts, bool(counted), share)


class WindowLoader:
    """Iterates over windows with this rank's micro-batches, loaded here or in worker processes.

    Args:
        task: the task, for its `collate`.
        data: the training data.
        shares: this rank's shares, window by window.
        device: where the micro-batches go.
        workers: data-loading processes; 0 loads in this one.
    """

    def __init__(
        self, task: Task, data: SampleSource, shares: Iterable[Share], device: torch.device, workers: int
    ) -> None:
        self._task = task
        self._data = data
        self._shares = shares
        self._device = device
        self._workers = workers

    def __iter__(self) -> Iterator[tuple[Window, list[MicroBatchData]]]:
        move = to_device(self._device)
        for share, batches in self._loaded():
            yield (
                share.window,
                [
                    MicroBatchData(move(batch), micro_batch.samples if share.counted else 0)
                    for batch, micro_batch in zip(batches, share.micro_batches, strict=True)
                ],
            )

    def _loaded(self) -> Iterator[tuple[Share, list[Any]]]:
        tensors = tensors_of(self._task, self._data)
        if self._workers:
            yield from self._loaded_by_workers()
        elif tensors is not None:
            yield from self._sliced(tensors)
        else:
            for share in self._shares:
                yield share, [fetch(self._task, self._data, indices) for indices in share.indices()]

    def _sliced(self, tensors: tuple[Tensor, ...]) -> Iterator[tuple[Share, list[Any]]]:
        """Data that is tensors already: one indexing per window, of which micro-batches are views."""
        for share in self._shares:
            rows, sizes = torch.from_numpy(share.order), share.sizes
            columns = [torch.split(tensor.index_select(0, rows), sizes) for tensor in tensors]
            yield share, [list(parts) for parts in zip(*columns, strict=True)]

    def _loaded_by_workers(self) -> Iterator[tuple[Share, list[Any]]]:
        taken: list[Share] = []

        def batches_of_indices() -> Iterator[list[int]]:
            for share in self._shares:
                taken.append(share)
                yield from share.indices()

        loader: DataLoader[Any] = DataLoader(
            self._data,  # type: ignore[arg-type]  # any object with a length and an index serves
            batch_sampler=_Sampler(batches_of_indices),
            collate_fn=self._task.collate,
            num_workers=self._workers,
            worker_init_fn=_ignore_signals,
            pin_memory=self._device.type == "cuda",
        )
        batches = iter(loader)
        for first in batches:
            share = taken.pop(0)
            yield share, [first, *islice(batches, len(share.micro_batches) - 1)]


def _ignore_signals(worker: int) -> None:
    """A loading process ends when training has no more use for it, also where its whole session is signalled."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@dataclass(frozen=True)
class _Sampler:
    """The indices of every micro-batch, as a torch batch sampler."""

    batches: Callable[[], Iterator[list[int]]]

    def __iter__(self) -> Iterator[list[int]]:
        return self.batches()


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
