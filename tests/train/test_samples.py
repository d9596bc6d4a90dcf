"""What samples draw at random as they are loaded."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from launcher.train.randomness import kept_randomness, seed_everything
from launcher.train.samples import KeyedBatches, Wanted
from launcher.train.task import Task


def drawn() -> tuple[float, float, float, float]:
    return torch.rand(()).item(), random.random(), float(np.random.random()), float(np.random.standard_normal())


class Augmenting:
    """Samples with what they draw."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return index, drawn()


class Together(Augmenting):
    """The same, asked for together."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class Quiet(Together):
    """Draws nothing, and notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __getitems__(self, indices: list[int]) -> list[Any]:
        self.asked.append(indices)
        return [(index, ()) for index in indices]


class Rarely(Augmenting):
    """Sample 7 alone draws."""

    def __getitem__(self, index: int) -> Any:
        return index, drawn() if index == 7 else ()


class AsTheyAre(Task):
    def collate(self, samples: list[Any]) -> Any:
        return dict(samples)


class Collating(Task):
    def collate(self, samples: list[Any]) -> Any:
        return drawn()


def samples(data: Any, *batches: list[int], seed: int = 3, epoch: int = 0) -> dict[int, Any]:
    """The samples of batches, by index."""
    made = KeyedBatches(AsTheyAre(), data, seed).here([Wanted(epoch, indices) for indices in batches])
    return {index: values for batch in made for index, values in batch.items()}


@pytest.mark.parametrize("data", [Augmenting(), Together(), Rarely()])
def test_a_sample_draws_the_same_in_any_company(data: Any) -> None:
    found = samples(data, [1, 2, 3, 7, 11])
    drawn()
    assert samples(data, [11], [7, 3, 2], [1]) == found
    assert samples(data, [7])[7] == found[7]


def test_samples_epochs_and_seeds_draw_other_numbers() -> None:
    one = samples(Augmenting(), [1, 2])
    found = [one[1], one[2], samples(Augmenting(), [1], epoch=1)[1], samples(Augmenting(), [1], seed=4)[1]]
    assert all(len(set(column)) == 4 for column in zip(*found, strict=True))


def test_what_collate_draws_belongs_to_the_micro_batch() -> None:
    batches = KeyedBatches(Collating(), Augmenting(), seed=3)
    one, other = batches.here([Wanted(0, [1, 2]), Wanted(0, [3, 4])])
    assert one != other
    assert batches.here([Wanted(0, [3, 4])]) == [other]


@pytest.mark.parametrize("data", [Augmenting(), Quiet()])
def test_the_training_draws_on_as_if_nothing_had_been_loaded(data: Any) -> None:
    seed_everything(1, rank=0)
    drawn()  # numpy keeps the other of a pair of normal numbers
    with kept_randomness():
        expected = [drawn() for _ in range(3)]
    samples(data, [1, 2], [3])
    assert [drawn() for _ in range(3)] == expected


def test_data_that_draw_nothing_are_asked_for_a_micro_batch_at_once() -> None:
    data = Quiet()
    samples(data, [1, 2], [3, 4])
    assert data.asked == [[1, 2], [3, 4]]


def test_tensors_are_rows() -> None:
    data = TensorDataset(torch.arange(10))
    (batch,) = KeyedBatches(Task(), data, seed=0).here([Wanted(0, [7, 2])])
    assert [column.tolist() for column in batch] == [[7, 2]]
