"""Windows with their data: this rank's micro-batches, in the order of the plan, on the device of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from launcher.plan.order import sample_order
from launcher.plan.windows import MicroBatch, Window
from launcher.train.accumulator import MicroBatchData
from launcher.train.task import SampleSource, Task, fetch, tensors_of

_AHEAD = 65_536  # positions whose order is computed at once: numpy costs about the same for one as for a thousand


@dataclass(frozen=True)
class Share:
    """What one rank takes of one window.

    Attributes:
        window: the window.
        micro_batches: the rank's micro-batches; a filler if it has none.
        indices: the sample indices of each.
    """

    window: Window
    micro_batches: tuple[MicroBatch, ...]
    indices: tuple[list[int], ...]


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
        micro_batches = [window.micro_batches(rank) or (_filler(window),) for window in block]
        orders = _order_of_block(block, micro_batches, length, seed)
        for window, mine, order in zip(block, micro_batches, orders, strict=True):
            sizes = np.cumsum([max(1, micro_batch.samples) for micro_batch in mine])[:-1]
            yield Share(window, mine, tuple(part.tolist() for part in np.split(order, sizes)))


def _filler(window: Window) -> MicroBatch:
    """For a rank without samples: the window's first one, counted as none."""
    return MicroBatch(window.first, 0)


def _order_of_block(
    block: Sequence[Window], micro_batches: Sequence[tuple[MicroBatch, ...]], length: int, seed: int
) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """The samples of each window's share, computed together for all windows of one epoch."""
    for epoch in sorted({window.epoch for window in block}):
        spans = [
            np.concatenate([np.arange(part.first, part.first + max(1, part.samples)) for part in mine])
            for window, mine in zip(block, micro_batches, strict=True)
            if window.epoch == epoch
        ]
        order = sample_order(np.concatenate(spans), length, seed, epoch)
        yield from np.split(order, np.cumsum([len(span) for span in spans])[:-1])


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
                    MicroBatchData(move(batch), micro_batch.samples)
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
                yield share, [fetch(self._task, self._data, indices) for indices in share.indices]

    def _sliced(self, tensors: tuple[Tensor, ...]) -> Iterator[tuple[Share, list[Any]]]:
        """Data that is tensors already: one indexing per window, of which micro-batches are views."""
        for share in self._shares:
            sizes = [len(indices) for indices in share.indices]
            rows = torch.tensor([index for indices in share.indices for index in indices])
            columns = [torch.split(tensor[rows], sizes) for tensor in tensors]
            yield share, [list(parts) for parts in zip(*columns, strict=True)]

    def _loaded_by_workers(self) -> Iterator[tuple[Share, list[Any]]]:
        taken: list[Share] = []

        def batches_of_indices() -> Iterator[list[int]]:
            for share in self._shares:
                taken.append(share)
                yield from share.indices

        loader: DataLoader[Any] = DataLoader(
            self._data,  # type: ignore[arg-type]  # any object with a length and an index serves
            batch_sampler=_Sampler(batches_of_indices),
            collate_fn=self._task.collate,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
        )
        batches = iter(loader)
        for first in batches:
            share = taken.pop(0)
            yield share, [first, *islice(batches, len(share.indices) - 1)]


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
