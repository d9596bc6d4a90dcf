from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from launcher.plan.order import sample_order
from launcher.plan.windows import windows_of_run
from launcher.train.loader import WindowLoader, shares_of_rank, to_device
from launcher.train.task import Task

SAMPLES = 53
CPU = torch.device("cpu")


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


def seen(data: Any, world: int, workers: int = 0) -> list[list[int]]:
    """The samples that enter each window, over all ranks, in the order of the plan."""
    windows: dict[int, list[int]] = {}
    for rank in range(world):
        shares = shares_of_rank(windows_of(world), rank, SAMPLES, seed=4)
        for window, share in WindowLoader(Task(), data, shares, CPU, workers):
            counted = [index for part in share if part.samples for index in indices(part.data)]
            assert sum(part.samples for part in share) == len(counted)
            assert share  # a rank with nothing has a filler
            windows.setdefault(window.update, []).extend(counted)
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
    ((_, share),) = WindowLoader(Task(), Shifted(torch.arange(SAMPLES)), shares, CPU, workers=0)
    assert all(index >= 100 for part in share for index in indices(part.data))
