"""An update's gradient: its size and its norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_ROW = 1024
_FEW = 2**14


def clip_to_norm(gradients: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale gradients in place so that their common L2 norm is at most `max_norm`.

    Args:
        gradients: tensors of any shape on one device: one for each parameter, or flat buffers that hold many.
        max_norm: the largest norm.

    Returns:
        The square of the norm before clipping, a float64 scalar on the device of the gradients; it is not waited for.
    """
    square = squared_norm(gradients)
    scale = (max_norm / (square.sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)
    return square


def squared_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The square of the common L2 norm of gradients, a float64 scalar on their device."""
    if not gradients:
        return torch.zeros((), dtype=torch.float64)
    return squared([l2_norm(gradient) for gradient in gradients])


def squared(norms: Sequence[Tensor]) -> Tensor:
    """The square of the norm of a whole of which the norms of the parts are given, a float64 scalar."""
    return torch.stack(list(norms)).double().square().sum()


def clip_replicated(flat: Sequence[Tensor], max_norm: float | None, rank: int, world_size: int) -> Tensor:
    """Clip a gradient that all ranks hold alike.

    A norm that only goes to the metrics is no pass over the whole gradient: each rank takes it of its part.

    Args:
        flat: the flat buffers that hold the gradient.
        max_norm: the largest norm; None does not clip.
        rank: this rank.
        world_size: how many there are.

    Returns:
        This rank's part of the square of the norm before clipping, a float64 scalar.
    """
    if max_norm is None:
        return squared_norm(part_of_rank(flat, rank, world_size))
    square = clip_to_norm(flat, max_norm)
    return square if rank == 0 else torch.zeros_like(square)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of a model that have gradients, in its order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradients_of(model: nn.Module) -> list[Tensor]:
    """The gradients that a model's parameters have."""
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def touch_all(model: nn.Module) -> Tensor:
    """Zero, with a graph that gives every trained parameter a gradient of zeros.

    DDP waits for a gradient of every parameter at the boundary; a forward pass without items would give it NaN. The
    sum of no values is zero whatever the parameter holds, and real also where that is complex.
    """
    return torch.stack([parameter.flatten()[:0].real.sum() for parameter in trained(model)]).sum()


@contextmanager
def own_gradients(model: nn.Module) -> Iterator[Callable[[], list[Tensor]]]:
    """Keep what is accumulated aside, so that a micro-step's own gradients can be seen; add the two at the end.

    Yields:
        A function that gives the gradients since.
    """
    parameters = trained(model)
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    yield lambda: gradients_of(model)
    for parameter, accumulated in zip(parameters, before, strict=True):
        if accumulated is not None:
            parameter.grad = accumulated if parameter.grad is None else accumulated.add_(parameter.grad)


def gradient_dtype(parameter: Tensor) -> torch.dtype:
    """The format that a parameter's gradients are added up in (PyTorch before 2.10 has its own only)."""
    return getattr(parameter, "grad_dtype", None) or parameter.dtype


def gradient_bytes(parameter: Tensor) -> int:
    """Bytes of a parameter's gradient."""
    return parameter.numel() * gradient_dtype(parameter).itemsize


def trained_bytes(model: nn.Module) -> int:
    """Bytes of one copy of a model's gradients."""
    return sum(gradient_bytes(parameter) for parameter in trained(model))


def padded_elements(shape: Sequence[int], shards: int) -> int:
    """Elements of a tensor of that shape whose rows are filled up until the shards have equally many."""
    rows, *inner = shape or (1,)
    return -(-rows // shards) * shards * math.prod(inner)


def part_of_rank(flat: Sequence[Tensor], rank: int, world_size: int) -> list[Tensor]:
    """One rank's part of flat buffers that all ranks hold alike: the parts of all ranks are the whole."""
    return [buffer[buffer.numel() * rank // world_size : buffer.numel() * (rank + 1) // world_size] for buffer in flat]


def l2_norm(values: Tensor) -> Tensor:
    """The L2 norm of all values, to the last digits of their type however many there are.

    On a CPU torch adds all squares in turn: in float32 the norm of ten million values is wrong by 4e-4, that of rows
    of them by 1e-7.
    """
    if values.numel() >= _FEW:
        flat = values.flatten()
        rest = flat.numel() % _ROW
        rows = torch.linalg.vector_norm(flat[: flat.numel() - rest].view(-1, _ROW), dim=1)
        values = torch.cat((rows, flat[flat.numel() - rest :]))
    norm: Tensor = torch.linalg.vector_norm(values)
    return norm
