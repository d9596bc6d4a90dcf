"""This rank's part of a tensor, whether it is shared out or whole."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def own_part(values: Tensor) -> Tensor:
    """What this rank holds of a tensor: all of it, unless it is a part of a DTensor, or of DeepSpeed's stage 3.

    Stage 3 fills parts up to one size, and leaves in there whatever was in that memory before.
    """
    partition: Tensor | None = getattr(values, "ds_tensor", None)
    if partition is not None:
        whole: int = values.ds_numel  # type: ignore[attr-defined]  # DeepSpeed's
        return partition.detach()[: max(whole - partition.numel() * dist.get_rank(), 0)]
    to_local = getattr(values, "to_local", None)  # torch.distributed.tensor, which DTensor is in, takes long to import
    part: Tensor = values.detach() if to_local is None else values.detach().to_local()  # type: ignore[attr-defined]
    return part
