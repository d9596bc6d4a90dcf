"""Micro-batches of samples that draw random numbers of their own, wherever and whenever they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from launcher.train.randomness import kept_randomness, next_random_numbers, seed_for_data
from launcher.train.task import SampleError, SampleSource, Task, rows_of, tensors_of


@dataclass(frozen=True)
class Wanted:
    """Samples that make a micro-batch.

    Attributes:
        epoch: their epoch, from 0: in each one, a sample draws other numbers.
        indices: which they are.
    """

    epoch: int
    indices: Sequence[int]


class KeyedBatches:
    """Makes micro-batches. What a sample draws at random follows from the seed, the epoch and the sample alone.

    So it does not follow from the ranks, from how many processes load data and how far ahead, or from a resume.
    Python's, numpy's and torch's generators are seeded before each sample, and for the micro-batch before it is
    collated. Data that draw nothing are spared that, which generators tell that are where they were.

    As a torch data set, in a loading process, it leaves the generators anywhere.

    Args:
        task: the task, for its `collate`.
        data: the user's data.
        seed: the recipe's seed.
    """

    def __init__(self, task: Task, data: SampleSource, seed: int) -> None:
        self._task = task
        self._data = data
        self._seed = seed
        self._tensors = tensors_of(task, data)
        self._together: Callable[[list[int]], Sequence[Any]] | None = getattr(data, "__getitems__", None)
        self._draws = False  # as far as is known
        self._undrawn: object = None

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, wanted: Wanted) -> Any:
        """A micro-batch.

        Raises:
            SampleError: the data or `Task.collate` raised an exception for it.
        """
        if self._tensors is not None:
            return rows_of(self._tensors, wanted.indices)
        samples = self.samples(wanted)
        seed_for_data(self._seed, wanted.epoch, wanted.indices[0], "collate")
        try:
            return self._task.collate(samples)
        except Exception as error:
            raise _named(wanted.indices, error) from error

    def here(self, wanted: Sequence[Wanted]) -> list[Any]:
        """Several micro-batches, in a process whose own random numbers then go on as if nothing had been drawn."""
        with nullcontext() if self._tensors is not None else kept_randomness():
            return [self[each] for each in wanted]

    def samples(self, wanted: Wanted) -> list[Any]:
        """The samples of a micro-batch, not collated."""
        if not self._draws:
            samples = self._unless_they_draw(list(wanted.indices))
            if samples is not None:
                return samples
            self._draws = True
        return [self._sample(wanted.epoch, index) for index in wanted.indices]

    def _unless_they_draw(self, indices: list[int]) -> list[Any] | None:
        """The samples, if loading them draws no random numbers; the same then whatever was drawn before."""
        if self._undrawn is None:
            seed_for_data(0, 0, 0)
            self._undrawn = next_random_numbers()
        seed_for_data(0, 0, 0)
        samples = self._load(indices)
        return samples if next_random_numbers() == self._undrawn else None

    def _sample(self, epoch: int, index: int) -> Any:
        seed_for_data(self._seed, epoch, index)
        return self._load([index])[0]

    def _load(self, indices: list[int]) -> list[Any]:
        if self._together is None:
            return [self._load_alone(index) for index in indices]
        try:
            return list(self._together(indices))
        except Exception as error:
            raise _named(indices, error) from error

    def _load_alone(self, index: int) -> Any:
        try:
            return self._data[index]
        except Exception as error:
            raise _named([index], error) from error


def _named(indices: Sequence[int], error: Exception) -> SampleError:
    samples = ", ".join(map(str, indices))
    return SampleError(f"sample{'s' if len(indices) > 1 else ''} {samples}: {type(error).__name__}: {error}")
