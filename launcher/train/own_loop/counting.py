"""Windows of a loader of the user's own: taken one ahead, and counted over all ranks before their first backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from launcher.train.accumulation import MicroBatchData
from launcher.train.engines.small_reductions import PendingValues
from launcher.train.items import items_by_name
from launcher.train.own_loop.sync import GradientSync

CountItems: TypeAlias = Callable[[Any], int | Mapping[str, int]]
"""How many items the loss, or each loss by name, is over in a batch."""


@dataclass(frozen=True)
class Portion:
    """What a rank takes of its loader for a window.

    Attributes:
        micro_steps: how many batches; fewer where the loader ends.
        samples: how many samples that is over all ranks, where a plan says so.
    """

    micro_steps: int
    samples: int | None = None


@dataclass(frozen=True)
class CountedWindow:
    """A window, counted.

    Attributes:
        micro_batches: this rank's, of which each has items of some loss.
        totals: name → items over all ranks, N.
    """

    micro_batches: tuple[MicroBatchData, ...]
    totals: Mapping[str, int]


@dataclass(frozen=True)
class _UnderWay:
    """A window that is counted here, and is being added up over the ranks."""

    micro_batches: tuple[MicroBatchData, ...]
    sums: PendingValues


class WindowCounter:
    """Makes windows of batches.

    Args:
        names: the losses.
        items: how many items a batch has; None counts samples.
        sync: adds the counts of all ranks.
    """

    def __init__(self, names: Sequence[str], items: CountItems | None, sync: GradientSync) -> None:
        self._names = names
        self._items = items
        self._sync = sync

    def windows(self, loader: Iterable[Any], portions: Iterable[Portion]) -> Iterator[CountedWindow]:
        """The windows, until no rank has another batch or there are no more portions.

        Args:
            loader: this rank's batches.
            portions: how many of them each window takes.

        Raises:
            RuntimeError: a window is not what the plan says.
        """
        batches = (batch for batch in loader)  # once it has ended it is not asked again
        begun = ((portion, self._begin(portion, batches)) for portion in portions)
        at_hand = next(begun, None)
        while at_hand is not None and (window := self._read(*at_hand)) is not None:
            at_hand = next(begun, None)
            yield window

    def _begin(self, portion: Portion, batches: Iterator[Any]) -> _UnderWay:
        taken = list(islice(batches, portion.micro_steps))
        if portion.samples is not None and len(taken) < portion.micro_steps:
            raise RuntimeError(
                f"the loader ended {portion.micro_steps - len(taken)} micro-batches before a window of the plan did: "
                "let it have all batches of accumulator.sampler()"
            )
        micro_batches = [MicroBatchData(batch, self._items_of(batch)) for batch in taken]
        own = [sum(micro_batch.items[name] for micro_batch in micro_batches) for name in self._names]
        counts = torch.tensor([*own, len(taken)], dtype=torch.int64, device=self._sync.device)
        # Without items there is no mean: the loss of such a batch would be not a number.
        with_items = tuple(micro_batch for micro_batch in micro_batches if any(micro_batch.items.values()))
        return _UnderWay(with_items, self._sync.sum_over_ranks(counts))

    def _read(self, portion: Portion, under_way: _UnderWay) -> CountedWindow | None:
        *sums, batches = (int(value) for value in under_way.sums.read())
        if portion.samples is None and not batches:
            return None
        totals = dict(zip(self._names, sums, strict=True))
        if portion.samples is not None and self._items is None and set(sums) != {portion.samples}:
            raise RuntimeError(
                f"a window of the plan has {portion.samples} samples, but the loaders gave {max(sums)}: use "
                "DataLoader(dataset, batch_sampler=accumulator.sampler()) as it is, without accelerator.prepare"
            )
        return CountedWindow(under_way.micro_batches, totals)

    def _items_of(self, batch: Any) -> dict[str, int]:
        found = None if self._items is None else self._items(batch)
        return items_by_name(found, self._names, lambda: samples_in(batch), "items")


def samples_in(batch: Any) -> int:
    """How many samples a batch has: the length of its first tensor.

    Raises:
        TypeError: it has none.
    """
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise TypeError(
        f"a batch of type {type(batch).__name__} has no tensor in its tuples, lists and dicts to count samples by: "
        "give windows(loader, items=...) a function that counts what the loss is a mean over"
    )
