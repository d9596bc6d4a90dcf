"""The reduction of one gradient bucket.

Annotations are evaluated in this module (no `from __future__`): DDP compares the hook's with the classes themselves.
"""

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket

from launcher.train.engines.gradients import l2_norm


@dataclass
class BucketLog:
    """What was reduced since it was last asked.

    Attributes:
        reduced: the flat buffers, of which the gradients are views.
        take_norms: whether to take the norm of each buffer before it is reduced.
        norms: these.
    """

    reduced: list[Tensor] = field(default_factory=list)
    take_norms: bool = False
    norms: list[Tensor] = field(default_factory=list)

    def take(self) -> tuple[list[Tensor], list[Tensor]]:
        """The buffers and the norms, which are then forgotten."""
        taken = (self.reduced, self.norms)
        self.reduced, self.norms = [], []
        return taken


def add_and_log(log: BucketLog, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """DDP communication hook: add a bucket over all ranks, and note that this was done.

    Args:
        log: where it is noted.
        bucket: the bucket, whose buffer is reduced in place.
    """
    gradients = bucket.buffer()
    log.reduced.append(gradients)
    if log.take_norms:
        log.norms.append(l2_norm(gradients))
    work = dist.all_reduce(gradients, async_op=True)
    if work is None:
        raise RuntimeError("this rank is not part of the process group")
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda reduced: reduced.value()[0])
    return future
