"""The process group of a run, and what its ranks tell each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_SMALL = 2**20  # bytes


@contextmanager
def process_group(device: torch.device, timeout: float, alone: bool = False) -> Iterator[None]:
    """The default process group, while training lasts: NCCL between GPUs, gloo between CPUs.

    It is left standing when training fails: taking it down would wait for ranks that are gone.

    Args:
        device: the device of this rank.
        timeout: seconds that a rank waits for the others.
        alone: whether this rank is the only one, which then needs nobody to meet at: accelerate tells it of none.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    place: dict[str, Any] = {}
    if alone:
        store = dist.HashStore()  # type: ignore[attr-defined]  # torch has it, and does not say so
        place = {"store": store, "rank": 0, "world_size": 1}
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout), **place)
    yield
    dist.destroy_process_group()


def gather(value: Any) -> list[Any]:
    """A small object of every rank of the default process group, in the order of the ranks."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def gather_beside(timeout: float) -> Callable[[Any], list[Any]]:
    """A `gather` for threads that go on beside the training, whose messages do not mix with its own.

    All ranks must make it together.

    Args:
        timeout: seconds that a rank waits for the others.
    """
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def gather_in_group(value: Any) -> list[Any]:
        gathered: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(gathered, value, group=group)
        return gathered

    return gather_in_group


def broadcast_from_first(tensors: Iterable[Tensor]) -> None:
    """Give every rank the values that rank 0 has; small tensors of one type go together."""
    small: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.nbytes > _SMALL:
            dist.broadcast(tensor.detach(), src=0)
        else:
            small.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
    for together in small.values():
        flat = torch.cat([tensor.flatten() for tensor in together])
        dist.broadcast(flat, src=0)
        for tensor, values in zip(together, torch.split(flat, [tensor.numel() for tensor in together]), strict=True):
            tensor.copy_(values.view_as(tensor))
