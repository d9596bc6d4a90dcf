"""Gradients of all ranks added by one all-reduce of each bucket, when no more backwards come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.train.engines.gradients import gradient_bytes, gradient_dtype
from launcher.train.engines.small_reductions import ReducedValues


class BucketReduction:
    """Adds the gradients of parameters over all ranks, in flat buffers.

    Args:
        parameters: those that are trained, in the order of the model; the same on every rank.
        bucket_mb: a bucket is at most so large, in MiB; a parameter that is larger is alone.
        group: the process group; None is the default one.
        flags_on: where the ranks tell each other which parameters have a gradient: a device that the group serves.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        bucket_mb: float,
        flags_on: torch.device,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._parameters = parameters
        # Backward reaches the last layers first; DDP fills its buckets in the same order.
        self.buckets = list(in_buckets(reversed(parameters), bucket_mb * 2**20))
        self._flags_on = flags_on
        self._group = group

    def reduce(self, before: Callable[[Tensor], None] | None = None) -> list[Tensor]:
        """Add the gradients of all ranks; each becomes a view of its bucket's buffer.

        A parameter that got no gradient on any rank keeps none, as it would on one rank alone.

        Args:
            before: shown each buffer before it is reduced.

        Returns:
            The buffers.
        """
        used = [parameter.grad is not None for parameter in self._parameters]
        anywhere = ReducedValues(torch.tensor(used, dtype=torch.uint8, device=self._flags_on), "max", self._group)
        work, buffers = [], []
        for bucket in self.buckets:
            buffer = torch.cat([flat_gradient(parameter) for parameter in bucket])
            views = torch.split(buffer, [parameter.numel() for parameter in bucket])
            for parameter, view in zip(bucket, views, strict=True):
                parameter.grad = view.view_as(parameter)
            if before is not None:
                before(buffer)
            buffers.append(buffer)
            work.append(dist.all_reduce(buffer, group=self._group, async_op=True))
        for reduction in work:
            if reduction is not None:
                reduction.wait()
        for parameter, has_gradient in zip(self._parameters, anywhere.read(), strict=True):
            if not has_gradient:
                parameter.grad = None
        return buffers


def flat_gradient(parameter: nn.Parameter) -> Tensor:
    """The gradient of a parameter as a vector; zeros where it has none."""
    if parameter.grad is None:
        return torch.zeros_like(parameter, dtype=gradient_dtype(parameter)).flatten()
    return parameter.grad.flatten()


def in_buckets(parameters: Iterable[nn.Parameter], most_bytes: float) -> Iterator[Sequence[nn.Parameter]]:
    """Parameters of one type in groups whose gradients are at most so large; one that is larger is alone."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        size = sum(gradient_bytes(other) for other in bucket) + gradient_bytes(parameter)
        if bucket and (gradient_dtype(parameter) != gradient_dtype(bucket[0]) or size > most_bytes):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
