"""The reduction of one gradient bucket.

Annotations are evaluated in this module (no `from __future__`): DDP compares the hook's with the classes themselves.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket

from launcher.train.engines.base import Reductions


def add_and_count(reductions: Reductions, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """DDP communication hook: add a bucket over all ranks, and count it.

    Args:
        reductions: this rank's counts.
        bucket: the bucket, whose flat buffer is reduced in place.
    """
    gradients = bucket.buffer()
    reductions.calls += 1
    reductions.bytes += gradients.nbytes
    work = dist.all_reduce(gradients, async_op=True)
    if work is None:
        raise RuntimeError("this rank is not part of the process group")
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda reduced: reduced.value()[0])
    return future
