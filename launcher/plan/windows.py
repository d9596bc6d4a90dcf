"""Windows: which samples an update sees, and which rank takes which of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class MicroBatch:
    """What one rank takes through one forward and backward: `samples` positions of the epoch from `first` on."""

    first: int
    samples: int


@dataclass(frozen=True)
class Window:
    """All micro-steps of all ranks between two optimizer steps.

    Attributes:
        update: the update that the window makes, from 0.
        epoch: its epoch, from 0.
        first: its first position in the order of the epoch.
        samples: how many samples it has: the global batch, or fewer in the tail.
        micro: samples per micro-batch; the window's last one may have fewer.
        world_size: ranks that share it.
        samples_seen: samples consumed by the run when the window is done.
    """

    update: int
    epoch: int
    first: int
    samples: int
    micro: int
    world_size: int
    samples_seen: int

    def micro_batches(self, rank: int) -> tuple[MicroBatch, ...]:
        """The micro-batches of one rank, in order: a contiguous run of the window's.

        A rank may have none; it takes part in the reduction all the same.
        """
        low, high = _share(-(-self.samples // self.micro), self.world_size, rank)
        end = self.first + self.samples
        starts = range(self.first + low * self.micro, min(self.first + high * self.micro, end), self.micro)
        return tuple(MicroBatch(start, min(self.micro, end - start)) for start in starts)


def micro_steps(samples: int, micro: int, world_size: int) -> tuple[int, ...]:
    """Micro-steps of each rank, K, in a window of `samples`: as even as whole micro-batches allow."""
    shares = (_share(-(-samples // micro), world_size, rank) for rank in range(world_size))
    return tuple(high - low for low, high in shares)


def windows_of_run(
    *, data_samples: int, global_batch: int, micro: int, world_size: int, keep_tail: bool, updates: int
) -> Iterator[Window]:
    """The windows of a run, update by update.

    Args:
        data_samples: samples in the training data.
        global_batch: samples per window.
        micro: samples per micro-batch.
        world_size: ranks.
        keep_tail: whether an epoch's short last window is a window.
        updates: how many windows the run has.
    """
    in_epoch = -(-data_samples // global_batch) if keep_tail else data_samples // global_batch
    epoch_samples = data_samples if keep_tail else in_epoch * global_batch
    for update in range(updates):
        epoch, index = divmod(update, in_epoch)
        first = index * global_batch
        samples = min(global_batch, data_samples - first)
        seen = epoch * epoch_samples + first + samples
        yield Window(update, epoch, first, samples, micro, world_size, seen)


def _share(micro_batches: int, world_size: int, rank: int) -> tuple[int, int]:
    """The run of micro-batches that a rank takes; the first ranks take one more where they do not divide."""
    each, more = divmod(micro_batches, world_size)
    low = rank * each + min(rank, more)
    return low, low + each + (rank < more)
