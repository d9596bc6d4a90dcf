"""Windows: which samples an update sees, and which rank takes which of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from launcher.plan.windowing import Progress, Windowing


@dataclass(frozen=True)
class MicroBatch:
    """What one rank takes through one forward and backward: `samples` positions of the epoch from `first` on."""

    first: int
    samples: int


@dataclass(frozen=True)
class Stage:
    """A part of the batch schedule: so many windows of one size, before those of the next."""

    global_batch: int
    updates: int


@dataclass(frozen=True)
class Window:
    """All micro-steps of all ranks between two optimizer steps.

    Attributes:
        update: the update that the window makes, from 0.
        epoch: its epoch, from 0.
        first: its first position in the order of the epoch.
        samples: how many samples it has: the global batch of its stage, or fewer in the tail.
        micro: samples per micro-batch; the window's last one may have fewer.
        world_size: ranks that share it.
        samples_seen: samples consumed by the run when the window is done.
        ends_epoch: whether it is the last window of its epoch, also in a run that ends with it.
    """

    update: int
    epoch: int
    first: int
    samples: int
    micro: int
    world_size: int
    samples_seen: int
    ends_epoch: bool = False

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
    *,
    data_samples: int,
    global_batch: int,
    micro: int,
    world_size: int,
    keep_tail: bool,
    updates: int,
    schedule: Sequence[Stage] = (),
    first_update: int = 0,
) -> Iterator[Window]:
    """The windows of a run, update by update.

    Args:
        data_samples: samples in the training data.
        global_batch: samples per window, from the end of the schedule on.
        micro: samples per micro-batch.
        world_size: ranks.
        keep_tail: whether an epoch's short last window is a window.
        updates: how many windows the run has.
        schedule: the stages before that, in order.
        first_update: the update to start at; it is reached at once, without the windows before it.
    """
    progress = _progress(Windowing(data_samples, global_batch, keep_tail), schedule, first_update)
    before, after = next(progress), next(progress)
    for following in progress:
        if before.update >= updates:
            return
        samples = after.samples_seen - before.samples_seen
        yield Window(
            update=before.update,
            epoch=after.epoch,
            first=after.first - samples,
            samples=samples,
            micro=micro,
            world_size=world_size,
            samples_seen=after.samples_seen,
            ends_epoch=following.epoch > after.epoch,
        )
        before, after = after, following


def _progress(last: Windowing, schedule: Sequence[Stage], first_update: int) -> Iterator[Progress]:
    """How far a run is before `first_update` and before each update after it, without end."""
    progress = Progress()
    for stage in schedule:
        windowing = replace(last, global_batch=stage.global_batch)
        end = progress.update + stage.updates
        progress = windowing.after(progress, max(0, min(first_update, end) - progress.update))
        while progress.update < end:
            yield progress
            progress = windowing.after(progress, 1)
    progress = last.after(progress, max(0, first_update - progress.update))
    while True:
        yield progress
        progress = last.after(progress, 1)


def _share(micro_batches: int, world_size: int, rank: int) -> tuple[int, int]:
    """The run of micro-batches that a rank takes; the first ranks take one more where they do not divide."""
    each, more = divmod(micro_batches, world_size)
    low = rank * each + min(rank, more)
    return low, low + each + (rank < more)
