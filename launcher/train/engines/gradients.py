"""The norm of an update's gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def clip_to_norm(module: nn.Module, max_norm: float | None) -> Tensor:
    """Scale the gradients of a module so that their L2 norm is at most `max_norm`.

    Returns:
        The norm before clipping, a scalar tensor on the device of the gradients; it is not waited for.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if max_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
