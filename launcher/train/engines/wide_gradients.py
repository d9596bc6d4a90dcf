"""Gradients in fp32 of parameters in half precision (`train.accumulate_dtype: fp32`).

Eight bits of bf16 hold a sum of many micro-steps badly: what a late one adds is rounded away. The parameters stay as
they are, and what the optimizer sees is rounded once, when it is whole, reduced and clipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from launcher.errors import Mistake, RequestError
from launcher.train.engines.gradients import gradient_dtype, trained

_HALF = (torch.bfloat16, torch.float16)


def widen(model: nn.Module) -> bool:
    """Let gradients be added up in fp32 from now on.

    Args:
        model: the model, which has no gradients.

    Returns:
        Whether there is a parameter in half precision, so that it makes a difference.

    Raises:
        RequestError: this PyTorch cannot.
    """
    half = [parameter for parameter in trained(model) if parameter.dtype in _HALF]
    if half and not hasattr(half[0], "grad_dtype"):
        raise RequestError(
            [
                Mistake(
                    "train.accumulate_dtype",
                    f"PyTorch {torch.__version__} keeps gradients in the format of their parameters",
                    "Install PyTorch 2.10 or later, or keep the parameters in fp32 with train.precision=bf16",
                )
            ]
        )
    for parameter in trained(model):
        if gradient_dtype(parameter) != parameter.dtype:  # of a model whose type has changed since
            parameter.grad_dtype = parameter.dtype
    for parameter in half:
        parameter.grad_dtype = torch.float32
    return bool(half)


def wide_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients are in another format than they are."""
    return [parameter for parameter in trained(model) if gradient_dtype(parameter) != parameter.dtype]


def round_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give parameters their gradients in their own format, as optimizers want them."""
    for parameter in parameters:
        gradient, parameter.grad = parameter.grad, None
        parameter.grad_dtype = parameter.dtype
        if gradient is not None:
            parameter.grad = gradient.to(parameter.dtype)


def widen_again(parameters: Sequence[nn.Parameter]) -> None:
    """Undo what `round_gradients` did to the formats, once the gradients are gone."""
    for parameter in parameters:
        parameter.grad_dtype = torch.float32
