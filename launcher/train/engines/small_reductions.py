"""Small reductions that are begun in one update and read in a later one, so that no micro-step waits for them."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

Operation = Literal["sum", "max"]


class PendingValues(Protocol):
    """A small vector that is being reduced over all ranks."""

    def read(self) -> list[float]:
        """The values, whole numbers where they were integers; waits for them if they have not arrived."""
        ...


class LocalValues:
    """Values of one rank alone, copied from its device when they are ready.

    Args:
        values: a vector.
    """

    def __init__(self, values: Tensor) -> None:
        self._copy = HostCopy(values)

    def read(self) -> list[float]:
        """The values."""
        return self._copy.read()


class ReducedValues:
    """Values reduced over all ranks by an all-reduce in the background.

    Args:
        values: a vector, reduced in place.
        operation: what becomes of the values of the ranks.
        group: the process group of the ranks; None is the default one.
    """

    def __init__(self, values: Tensor, operation: Operation, group: dist.ProcessGroup | None = None) -> None:
        self._values = values
        reduce_op = dist.ReduceOp.SUM if operation == "sum" else dist.ReduceOp.MAX
        work = dist.all_reduce(values, reduce_op, group=group, async_op=True)
        self._work = work
        self._copy: HostCopy | None = None
        if values.is_cuda and work is not None:
            work.wait()  # orders the copy behind the reduction on the device; the host goes on
            self._copy = HostCopy(values)

    def read(self) -> list[float]:
        """The values; waits for the reduction if it has not ended."""
        if self._copy is not None:
            return self._copy.read()
        if self._work is not None:
            self._work.wait()
        return HostCopy(self._values).read()


class HostCopy:
    """A copy from the device to the host that waits only for the work that was queued before it.

    Args:
        values: a vector on any device.
    """

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host = host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self._event.record()
        else:
            self._host = values

    def read(self) -> list[float]:
        """The values on the host."""
        if self._event is not None:
            self._event.synchronize()
        numbers: list[float] = self._host.tolist()
        return numbers
