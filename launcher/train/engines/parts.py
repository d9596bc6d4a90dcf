"""This rank's part of a tensor, whether it is shared out or whole."""

from __future__ import annotations

from typing import cast

from torch import Tensor


def own_part(values: Tensor) -> Tensor:
    """What this rank holds of a tensor: all of it, unless it is a part of a DTensor, or of DeepSpeed's stage 3."""
    values = cast(Tensor, getattr(values, "ds_tensor", values))
    to_local = getattr(values, "to_local", None)  # torch.distributed.tensor, which DTensor is in, takes long to import
    part: Tensor = values.detach() if to_local is None else values.detach().to_local()  # type: ignore[attr-defined]
    return part
