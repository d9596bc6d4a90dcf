"""What the ranks of a proof tell each other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

PATIENCE = timedelta(days=365)  # one rank alone takes a whole window forward and backward: that may take its time
T = TypeVar("T")


class Ranks:
    """The ranks of a proof, which all run the same steps: what one of them finds out, all are told.

    They wait for each other in a group of their own, without the time limit of the recipe.

    Args:
        rank: this rank.
        world_size: how many there are; with more than one, the process group must be up.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self._patient = dist.new_group(backend="gloo", timeout=PATIENCE) if world_size > 1 else None

    def of_first(self, find: Callable[[], T]) -> T:
        """What rank 0 finds, on all ranks; the others wait for it."""
        found = [find() if self.rank == 0 else None]
        if self._patient is not None:
            dist.broadcast_object_list(found, src=0, group=self._patient)
        return found[0]  # type: ignore[return-value]  # it has come from rank 0

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in the order of the ranks."""
        if self._patient is None:
            return [value]
        gathered: list[T] = [value] * self.world_size
        dist.all_gather_object(gathered, value, group=self._patient)
        return gathered
