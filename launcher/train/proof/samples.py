"""The samples of a window, as often as they are asked for, and the same each time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from launcher.plan.order import sample_order
from launcher.plan.planner import Plan
from launcher.plan.windows import Window
from launcher.train.accumulation import LoadedWindow, MicroBatchData
from launcher.train.engines.base import Engine
from launcher.train.loader import WindowLoader, shares_of_rank, to_device
from launcher.train.randomness import seed_everything
from launcher.train.samples import KeyedBatches, Wanted
from launcher.train.task import SampleSource, Task, tensors_of
from launcher.train.task_losses import TaskLosses


class WindowSamples:
    """Makes batches of a window's samples: its micro-batches, and any others of the same samples.

    Args:
        plan: the plan, with the length of the data.
        task: the user's task.
        data: the training data.
        losses: the losses of the task, for the items that they count.
    """

    def __init__(self, plan: Plan, task: Task, data: SampleSource, losses: TaskLosses) -> None:
        self._plan = plan
        self._task = task
        self._losses = losses
        self._data = data
        self._batches = KeyedBatches(task, data, plan.recipe.train.seed)

    def load(self, engine: Engine) -> LoadedWindow:
        """The first window of the run that has items, with this rank's micro-batches, as training loads it.

        Raises:
            ValueError: there is none.
        """
        recipe = self._plan.recipe
        for window in self._plan.windows():
            shares = shares_of_rank([window], engine.rank, len(self._data), recipe.train.seed)
            loader = WindowLoader(
                self._losses, self._task, self._data, shares, engine, recipe.data.workers, recipe.train.seed
            )
            loaded = next(iter(loader))
            if not loaded.empty:
                return loaded
        raise ValueError("Task.items counts nothing in any window of the run: there is nothing to prove")

    def batch(self, window: Window, positions: Sequence[int]) -> MicroBatchData:
        """The samples at some positions of a window's epoch as one batch, on the CPU."""
        (data,) = self._batches.here([self._wanted(window, positions)])
        return MicroBatchData(data, self._losses.items(data, len(positions)))

    def collated(self, window: Window, seed: int) -> MicroBatchData:
        """The first samples of a window as one batch, collated with a seed; its items are not counted."""
        wanted = self._wanted(window, range(window.first, window.first + min(window.micro, window.samples)))
        if tensors_of(self._task, self._data) is not None:
            return MicroBatchData(self._batches[wanted], {})
        samples = self._batches.samples(wanted)
        seed_everything(seed, rank=None)
        return MicroBatchData(self._task.collate(samples), {})

    def _wanted(self, window: Window, positions: Sequence[int]) -> Wanted:
        order = sample_order(positions, len(self._data), self._plan.recipe.train.seed, window.epoch)
        return Wanted(window.epoch, order.tolist())


def added_items(batches: Iterable[MicroBatchData], losses: TaskLosses) -> tuple[int, ...]:
    """The items of each loss in several batches."""
    counted = [batch.items for batch in batches]
    return tuple(sum(items[name] for items in counted) for name in losses.names)


def ready(batch: MicroBatchData, device: torch.device, dtype: torch.dtype | None) -> MicroBatchData:
    """A batch for the model: on its device, its floating-point tensors of a type where one is given."""
    data = to_device(device)(batch.data)
    return MicroBatchData(data if dtype is None else tree_map(lambda leaf: _as_type(leaf, dtype), data), batch.items)


def _as_type(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
