"""What crosses the network for a model in parts, counted where it is issued."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor

# The classes behind set_custom_all_gather and set_custom_reduce_scatter: torch has them under no public name.
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

from launcher.train.engines.base import Reductions
from launcher.train.engines.gradients import l2_norm


@dataclass
class ShardTraffic:
    """What was issued since it was last asked.

    Attributes:
        reduced: bytes of each reduction of gradients: what was handed to a reduce-scatter or an all-reduce.
        elements: of the gradients that were handed to reduce-scatters since a micro-step began.
        gathered: bytes of parameters that each all-gather gave.
        take_norms: whether to take the norm of this rank's gradients before they are reduced.
        norms: these.
    """

    reduced: list[int] = field(default_factory=list)
    elements: int = 0
    gathered: list[int] = field(default_factory=list)
    take_norms: bool = False
    norms: list[Tensor] = field(default_factory=list)

    def take(self) -> tuple[Reductions, list[Tensor]]:
        """The counts and the norms, which are then forgotten."""
        counted = Reductions(len(self.reduced), sum(self.reduced), len(self.gathered), sum(self.gathered))
        norms = self.norms
        self.reduced, self.gathered, self.norms = [], [], []
        return counted, norms


class CountedAllGather(DefaultAllGather):
    """FSDP's all-gather of parameters, noted.

    Args:
        traffic: where.
    """

    def __init__(self, traffic: ShardTraffic) -> None:
        self._traffic = traffic

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        """Gather the parts of all ranks."""
        self._traffic.gathered.append(output_tensor.nbytes)
        return super().__call__(output_tensor, input_tensor, group, async_op)


class CountedReduceScatter(DefaultReduceScatter):
    """FSDP's reduce-scatter of gradients, noted; what it is handed is this rank's own gradient.

    Args:
        traffic: where.
    """

    def __init__(self, traffic: ShardTraffic) -> None:
        self._traffic = traffic

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> dist.Work:
        """Add the gradients of all ranks, and keep a part of the sum."""
        if op != dist.ReduceOp.SUM:
            raise RuntimeError(f"gradients are added, and FSDP was about to take {op} of them")
        self._traffic.reduced.append(input_tensor.nbytes)
        self._traffic.elements += input_tensor.numel()
        if self._traffic.take_norms:
            self._traffic.norms.append(l2_norm(input_tensor))
        return super().__call__(output_tensor, input_tensor, group, op, async_op)
