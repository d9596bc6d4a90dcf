"""DistributedDataParallel: one reduction of the gradients per update, at the boundary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from launcher.recipe.schema import ParallelSection
from launcher.train.engines.base import Reductions
from launcher.train.engines.comm_hook import add_and_keep
from launcher.train.engines.gradients import clip_to_norm, part_of_rank, squared_norm
from launcher.train.engines.sums import PendingSums, ReducedSums


@contextmanager
def process_group(device: torch.device, timeout: float) -> Iterator[None]:
    """The default process group, while training lasts: NCCL between GPUs, gloo between CPUs.

    It is left standing when training fails: taking it down would wait for ranks that are gone.

    Args:
        device: the device of this rank.
        timeout: seconds that a rank waits for the others.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    yield
    dist.destroy_process_group()


def gather(value: Any) -> list[Any]:
    """A small object of every rank of the default process group, in the order of the ranks."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


class DdpEngine:
    """Gradient sync by DistributedDataParallel over the default process group.

    Args:
        model: the model, on its device.
        device: that device.
        settings: the recipe's `parallel` section.
    """

    def __init__(self, model: nn.Module, device: torch.device, settings: ParallelSection) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = device
        self._reduced: list[Tensor] = []  # by the hook, in the window under way
        self._gradients: list[Tensor] = []  # of the window that is done
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._gradient_bytes = sum(parameter.numel() * parameter.element_size() for parameter in trained)
        if settings.sync_batchnorm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch's
        self.bare_module = model
        self._ddp = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            bucket_cap_mb=settings.bucket_mb,
            find_unused_parameters=settings.find_unused_parameters,
            gradient_as_bucket_view=True,
        )
        self.module: nn.Module = self._ddp
        # The hook adds where DDP would average: the loss carries the one division. It also sees every reduction that
        # really happens, which is what the metrics report.
        self._ddp.register_comm_hook(self._reduced, add_and_keep)

    def micro_step(self, *, boundary: bool) -> AbstractContextManager[None]:
        """Forward and backward inside `no_sync`, but at the boundary."""
        return nullcontext() if boundary else self._ddp.no_sync()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the window; at the boundary, reduce them all."""
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def take_reductions(self) -> Reductions:
        """The all-reduces since the last call, held against one copy of the gradients.

        DDP reduces nothing when a parameter has no gradient, and says so only at the next forward pass, if there is
        one: by then a wrong step was made.
        """
        self._gradients = list(self._reduced)
        self._reduced.clear()
        reductions = Reductions(len(self._gradients), sum(bucket.nbytes for bucket in self._gradients))
        if reductions.bytes != self._gradient_bytes:
            raise RuntimeError(
                f"{reductions.bytes} bytes of gradients were reduced instead of {self._gradient_bytes}: the loss does "
                "not use every parameter. Set parallel.find_unused_parameters=true, or freeze those it never uses"
            )
        return reductions

    def clip(self, max_norm: float | None) -> Tensor:
        """Clip the reduced gradient, in the flat buffers that hold it.

        A norm that only goes to the metrics is no pass over the whole gradient: each rank takes it of its part.
        """
        if max_norm is None:
            return squared_norm(part_of_rank(self._gradients, self.rank, self.world_size))
        square = clip_to_norm(self._gradients, max_norm)
        return square if self.rank == 0 else torch.zeros_like(square)

    def sum_over_ranks(self, values: Tensor) -> PendingSums:
        """Begin to add a small vector over all ranks."""
        return ReducedSums(values)

    def gather(self, value: Any) -> list[Any]:
        """A small object of every rank."""
        return gather(value)

    def share_buffers(self) -> None:
        """Give every rank the buffers of rank 0."""
        for buffer in self.bare_module.buffers():
            dist.broadcast(buffer, src=0)
