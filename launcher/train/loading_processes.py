"""Micro-batches that processes of a rank load ahead."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from launcher.linux import end_with_parent
from launcher.train.samples import KeyedBatches, Wanted
from launcher.train.task import SampleError


def loaded_by_processes(
    batches: KeyedBatches, wanted: Callable[[], Iterator[Wanted]], processes: int, pinned: bool
) -> Iterator[Any]:
    """Load micro-batches in other processes, in order.

    Args:
        batches: makes them.
        wanted: which; asked some way ahead of what is handed out.
        processes: how many processes, at least one.
        pinned: hand them out in memory that a GPU can copy from by itself.

    Raises:
        SampleError: the data or `Task.collate` raised an exception for one of them.
    """
    loader: DataLoader[Any] = DataLoader(
        _Batches(batches),  # type: ignore[arg-type]  # any object with an index serves
        batch_size=None,
        sampler=_Sampler(wanted),
        collate_fn=_as_it_is,
        num_workers=processes,
        worker_init_fn=_live_and_die_with_rank,
        pin_memory=pinned,
        generator=torch.Generator(),  # which it draws seeds of its workers from; training goes on with its own
    )
    return map(_loaded, loader)


@dataclass(frozen=True)
class _Unloaded:
    """What a loading process hands over for samples that cannot be had; torch would hide the message in another."""

    message: str
    stack: str


@dataclass(frozen=True)
class _Batches:
    """Micro-batches as a loading process makes them."""

    batches: KeyedBatches

    def __getitem__(self, wanted: Wanted) -> Any:
        try:
            return self.batches[wanted]
        except SampleError as error:
            return _Unloaded(str(error), traceback.format_exc())


@dataclass(frozen=True)
class _Sampler:
    """The samples of every micro-batch, as a torch sampler."""

    wanted: Callable[[], Iterator[Wanted]]

    def __iter__(self) -> Iterator[Wanted]:
        return self.wanted()


def _loaded(batch: Any) -> Any:
    if isinstance(batch, _Unloaded):
        raise SampleError(f"{batch.message}\n\nIn the loading process:\n{batch.stack}")
    return batch


def _as_it_is(batch: Any) -> Any:
    return batch


def _live_and_die_with_rank(process: int) -> None:
    """A loading process ends when training has no more use for it, also where its whole session is signalled.

    Where its rank is killed it is too: of itself it would look for its rank every five seconds only.
    """
    end_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
