"""Windows: which samples an update sees, and which rank takes which of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from launcher.plan.windowing import Progress, Windowing


@dataclass(frozen=True)
class MicroBatch:
    """What one rank takes through one forward and backward: `samples` positions of the epoch from `first` on."""

    first: int
    samples: int


@dataclass(frozen=True)
class Stage:
    """So many windows of one size, before those of the next: a part of the batch schedule, or of a run before a fork.

    Attributes:
        global_batch: samples of a window.
        updates: how many windows.
        keep_tail: whether an epoch's short last window is one of them.
    """

    global_batch: int
    updates: int
    keep_tail: bool

    def windowing(self, last: Windowing) -> Windowing:
        """Its windows, over the data of the last ones of the run."""
        return replace(last, global_batch=self.global_batch, keep_tail=self.keep_tail)


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
        virtual_ranks: where results must not depend on the ranks, the micro-batches are dealt to so many virtual ones,
            V, of which each rank owns some that follow one another.
    """

    update: int
    epoch: int
    first: int
    samples: int
    micro: int
    world_size: int
    samples_seen: int
    ends_epoch: bool = False
    virtual_ranks: int | None = None

    def micro_batches(self, rank: int) -> tuple[MicroBatch, ...]:
        """The micro-batches of one rank, in order: a contiguous run of the window's.

        A rank may have none; it takes part in the reduction all the same.
        """
        low, high = _run_of(rank, -(-self.samples // self.micro), self.world_size, self.virtual_ranks)
        end = self.first + self.samples
        starts = range(self.first + low * self.micro, min(self.first + high * self.micro, end), self.micro)
        return tuple(MicroBatch(start, min(self.micro, end - start)) for start in starts)

    @property
    def most_steps(self) -> int:
        """Micro-steps of the busiest rank, K."""
        return max(micro_steps(self.samples, self.micro, self.world_size, self.virtual_ranks))

    def virtual_steps(self, rank: int) -> tuple[int, ...]:
        """The micro-steps of each virtual rank that a rank owns, in order; without virtual ranks, of the rank itself.

        Args:
            rank: the rank.
        """
        micro_batches = -(-self.samples // self.micro)
        if self.virtual_ranks is None:
            low, high = _share(micro_batches, self.world_size, rank)
            return (high - low,)
        owned = virtual_ranks_of(rank, self.world_size, self.virtual_ranks)
        cuts = [_cut(micro_batches, self.virtual_ranks, virtual) for virtual in (*owned, owned.stop)]
        return tuple(high - low for low, high in pairwise(cuts))


def virtual_ranks_of(rank: int, world_size: int, virtual_ranks: int | None) -> range:
    """The virtual ranks that a rank owns; itself where there are none."""
    return range(rank, rank + 1) if virtual_ranks is None else range(*_share(virtual_ranks, world_size, rank))


def micro_steps(samples: int, micro: int, world_size: int, virtual_ranks: int | None = None) -> tuple[int, ...]:
    """Micro-steps of each rank, K, in a window of `samples`: as even as whole micro-batches allow.

    Args:
        samples: samples of the window.
        micro: samples per micro-batch.
        world_size: ranks.
        virtual_ranks: what the micro-batches are dealt to first, where that is not the ranks.
    """
    runs = (_run_of(rank, -(-samples // micro), world_size, virtual_ranks) for rank in range(world_size))
    return tuple(high - low for low, high in runs)


def _run_of(rank: int, micro_batches: int, world_size: int, virtual_ranks: int | None) -> tuple[int, int]:
    """The run of micro-batches that a rank takes: those of all its virtual ranks."""
    if virtual_ranks is None:
        return _share(micro_batches, world_size, rank)
    owned = virtual_ranks_of(rank, world_size, virtual_ranks)
    return _cut(micro_batches, virtual_ranks, owned.start), _cut(micro_batches, virtual_ranks, owned.stop)


def _cut(micro_batches: int, virtual_ranks: int, virtual: int) -> int:
    """The micro-batch that a virtual rank begins with.

    Those that have one more are spread over all, so that the ranks' blocks of them are as even as can be.
    """
    return micro_batches * virtual // virtual_ranks


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
    virtual_ranks: int | None = None,
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
        virtual_ranks: what micro-batches are dealt to first, where results must not depend on the ranks.
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
            virtual_ranks=virtual_ranks,
        )
        before, after = after, following


def _progress(last: Windowing, schedule: Sequence[Stage], first_update: int) -> Iterator[Progress]:
    """How far a run is before `first_update` and before each update after it, without end."""
    progress = Progress()
    for stage in schedule:
        windowing = stage.windowing(last)
        end = progress.update + stage.updates
        progress = windowing.after(progress, max(0, min(first_update, end) - progress.update))
        while progress.update < end:
            yield progress
            progress = windowing.after(progress, 1)
    progress = last.after(progress, max(0, first_update - progress.update))
    while True:
        yield progress
        progress = last.after(progress, 1)


def _share(things: int, world_size: int, rank: int) -> tuple[int, int]:
    """The run of things that a rank takes; the first ranks take one more where they do not divide."""
    each, more = divmod(things, world_size)
    low = rank * each + min(rank, more)
    return low, low + each + (rank < more)
