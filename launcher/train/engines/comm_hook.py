"""The reduction of one gradient bucket.

Annotations are evaluated in this module (no `from __future__`): DDP compares the hook's with the classes themselves.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket


def add_and_keep(reduced: list[Tensor], bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """DDP communication hook: add a bucket over all ranks, and note that this was done.

    Args:
        reduced: the flat buffers of the window's buckets, of which the gradients are views; grows by this one.
        bucket: the bucket, whose buffer is reduced in place.
    """
    gradients = bucket.buffer()
    reduced.append(gradients)
    work = dist.all_reduce(gradients, async_op=True)
    if work is None:
        raise RuntimeError("this rank is not part of the process group")
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda reduced: reduced.value()[0])
    return future
