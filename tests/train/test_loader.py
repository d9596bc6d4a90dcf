from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from launcher.plan.order import sample_order
from launcher.plan.windows import windows_of_run
from launcher.recipe.schema import MultitaskSection
from launcher.train.accumulation import LoadedWindow
from launcher.train.engines.single import SingleEngine
from launcher.train.loader import Share, WindowLoader, shares_of_rank, to_device
from launcher.train.task import SampleError, Task
from launcher.train.task_losses import TaskLosses
from tests.faults.table import Kind

SAMPLES = 53


SUM = SingleEngine.reduce_over_ranks


class Listed(Dataset[Any]):
    """Samples one by one."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"index": torch.tensor(index)}


class Together(Listed):
    """Samples asked for together."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        return [{"index": torch.tensor(index)} for index in indices]


class InTuples(Listed):
    """Samples as a tensor data set has them."""

    def __getitem__(self, index: int) -> tuple[Tensor]:  # type: ignore[override]  # of another kind
        return (torch.tensor(index),)


DATA = {
    "tensors": TensorDataset(torch.arange(SAMPLES)),
    "one by one": Listed(),
    "together": Together(),
}


def indices(batch: Any) -> list[int]:
    found: list[int] = (batch["index"] if isinstance(batch, dict) else batch[0]).tolist()
    return found


def windows_of(world: int, updates: int = 9) -> Any:
    return windows_of_run(
        data_samples=SAMPLES, global_batch=20, micro=6, world_size=world, keep_tail=True, updates=updates
    )


def loader(task: Task, data: Any, shares: Any, workers: int = 0) -> WindowLoader:
    engine = SingleEngine(nn.Linear(1, 1), torch.device("cpu"))
    return WindowLoader(TaskLosses(task, MultitaskSection()), task, data, shares, engine, workers)


def seen(data: Any, world: int, workers: int = 0) -> list[list[int]]:
    """The samples that enter each window, over all ranks, in the order of the plan."""
    windows: dict[int, list[int]] = {}
    for rank in range(world):
        shares = shares_of_rank(windows_of(world), rank, SAMPLES, seed=4)
        for loaded in loader(Task(), data, shares, workers):
            counted = [index for part in loaded.micro_batches for index in indices(part.data)]
            assert sum(part.items["loss"] for part in loaded.micro_batches) == len(counted)
            assert loaded.totals == (loaded.window.samples,)
            windows.setdefault(loaded.window.update, []).extend(counted)
    return [windows[update] for update in sorted(windows)]


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    """Nine windows of three epochs, straight from the order."""
    epochs = [sample_order(np.arange(SAMPLES), SAMPLES, 4, epoch).tolist() for epoch in range(3)]
    return [epoch[first : first + 20] for epoch in epochs for first in (0, 20, 40)]


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_windows_hold_the_same_samples_on_any_number_of_ranks(expected: list[list[int]], data: str, world: int) -> None:
    assert seen(DATA[data], world) == expected


def test_worker_processes_change_nothing(expected: list[list[int]]) -> None:
    assert seen(DATA["one by one"], 2, workers=2) == expected


def test_every_sample_is_seen_once_in_an_epoch() -> None:
    windows = seen(DATA["tensors"], 3)
    assert sorted(chain.from_iterable(windows[:3])) == list(range(SAMPLES))
    assert windows[:3] != windows[3:6]


def test_batches_of_any_shape_are_moved() -> None:
    class Pair(NamedTuple):
        left: Tensor
        right: list[Any]

    moved = to_device(torch.device("meta"))(Pair(torch.ones(1), [{"a": torch.ones(2)}, "text", (torch.ones(3),)]))
    assert isinstance(moved, Pair)
    assert moved.left.is_meta
    assert moved.right[0]["a"].is_meta
    assert moved.right[1] == "text"
    assert moved.right[2][0].is_meta


def test_a_subclass_of_tensor_data_is_asked_for_its_samples() -> None:
    """It may augment them: what indexes tensors directly would drop that in silence."""

    class Shifted(TensorDataset):
        def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
            return tuple(tensor[index] + 100 for tensor in self.tensors)

    shares = shares_of_rank(windows_of(1, updates=1), 0, SAMPLES, seed=4)
    (loaded,) = loader(Task(), Shifted(torch.arange(SAMPLES)), shares)
    assert all(index >= 100 for part in loaded.micro_batches for index in indices(part.data))


class Counted(Task):
    """Items are the sum of the sample's numbers."""

    def items(self, batch: Any) -> int:
        return int(batch[0].sum())


def counted_windows(data: Any, updates: int) -> Iterator[tuple[LoadedWindow, int, int]]:
    """The windows of a task that counts, each with the last window taken so far and the counts begun so far."""
    taken: list[int] = []

    def noted() -> Iterator[Share]:
        for share in shares_of_rank(windows_of(1, updates), 0, SAMPLES, seed=4):
            taken.append(share.window.update)
            yield share

    windows = loader(Counted(), data, noted())
    with mock.patch.object(SingleEngine, "reduce_over_ranks", autospec=True, side_effect=SUM) as counts:
        for loaded in windows:
            own = [sum(indices(part.data)) for part in loaded.micro_batches]
            assert [part.items["loss"] for part in loaded.micro_batches] == own
            assert loaded.totals == (sum(own),)
            yield loaded, taken[-1], counts.call_count


def test_items_are_counted_one_window_ahead_and_no_more() -> None:
    for loaded, taken, counts in counted_windows(InTuples(), updates=4):
        ahead = min(loaded.window.update + 1, 3)
        assert (taken, counts) == (ahead, ahead + 1)


def test_small_windows_of_tensors_share_a_count() -> None:
    """Epochs of 20, 20 and 13 samples: the first 58 windows have 1027, the other 22 are counted while they train."""
    seen = list(counted_windows(DATA["tensors"], updates=80))
    assert [loaded.window.update for loaded, _, _ in seen] == list(range(80))
    assert {(taken, counts) for _, taken, counts in seen} == {(79, 2)}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_rank_may_have_no_micro_batch(workers: int) -> None:
    """Windows of 20, 20 and 13 samples are four, four and three micro-batches: the fifth rank has none."""
    shares = shares_of_rank(windows_of(4, updates=3), 3, SAMPLES, seed=4)
    loaded = list(loader(Task(), DATA["one by one"], shares, workers))
    assert [len(window.micro_batches) for window in loaded] == [1, 1, 0]
    shares = shares_of_rank(windows_of(5, updates=3), 4, SAMPLES, seed=4)
    assert [window.micro_batches for window in loader(Task(), DATA["one by one"], shares, workers)] == [()] * 3


class Broken(Listed):
    """Sample 17 cannot be read."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index == 17:
            raise OSError("no such picture")
        return super().__getitem__(index)


class Fussy(Task):
    """Makes no micro-batch of any samples."""

    def collate(self, samples: list[Any]) -> Any:
        raise ValueError("of two sizes")


@pytest.mark.fault(
    Kind.VALUE,
    "a sample cannot be read, or makes no micro-batch",
    by="an exception, in the rank or in a loading process",
    outcome="the sample is named",
)
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        (Task(), Broken(), r"^sample 17: OSError: no such picture(\n|$)"),
        (Fussy(), Listed(), r"^samples \d+(, \d+){5}: ValueError: of two sizes(\n|$)"),
    ],
)
def test_a_sample_that_cannot_be_had_is_named(task: Task, data: Listed, message: str, workers: int) -> None:
    with pytest.raises(SampleError, match=message):
        list(loader(task, data, shares_of_rank(windows_of(1), 0, SAMPLES, seed=4), workers))
