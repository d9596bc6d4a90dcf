"""The loop that a good engineer writes by hand: DistributedDataParallel with `no_sync`, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from benchmarks.overhead.work import LEARNING_RATE, MICRO, WEIGHT_DECAY, Ran, Work, make_data, make_model

Batch = tuple[Tensor, Tensor]


class Rows(Dataset[Batch]):
    """Data that gives a micro-batch whole.

    Args:
        features: one row per sample.
        classes: one class per sample.
    """

    def __init__(self, features: Tensor, classes: Tensor) -> None:
        self._features = features
        self._classes = classes

    def __len__(self) -> int:
        return len(self._classes)

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.tensor(indices)
        return self._features[rows], self._classes[rows]


def run_by_hand(work: Work, mark: Callable[[int], None], order: Sequence[Sequence[int]] | None = None) -> Ran:
    """Train.

    Args:
        work: what to train.
        mark: told the number of each update (from 0) before anything is done for it.
        order: the sample indices of each micro-batch of this rank, to see what another loop sees; by default a
            `DistributedSampler` shuffles.
    """
    torch.manual_seed(work.seed)
    model = make_model(work.size)
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    data = Rows(*make_data(work.seed))
    batches = _shuffled(data, work.seed) if order is None else _ordered(data, order)
    boundary = work.accumulation - 1
    for update in range(work.updates):
        mark(update)
        for step in range(work.accumulation):
            features, classes = next(batches)
            with nullcontext() if step == boundary else ddp.no_sync():
                loss = functional.cross_entropy(ddp(features), classes) / work.accumulation
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return Ran(model)


def _shuffled(data: Rows, seed: int) -> Iterator[Batch]:
    """Micro-batches of this rank, epoch after epoch."""
    sampler: DistributedSampler[Batch] = DistributedSampler(data, seed=seed)
    loader: DataLoader[Any] = DataLoader(data, batch_size=MICRO, sampler=sampler, collate_fn=_whole)
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def _ordered(data: Rows, order: Sequence[Sequence[int]]) -> Iterator[Batch]:
    """Micro-batches of given samples."""
    loader: DataLoader[Any] = DataLoader(data, batch_sampler=[list(indices) for indices in order], collate_fn=_whole)
    yield from loader


def _whole(batch: Any) -> Any:
    """A batch that is one already."""
    return batch
