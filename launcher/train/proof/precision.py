"""A model in float64, to tell a wrong gradient from one that was rounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def default_type(dtype: torch.dtype | None) -> Iterator[None]:
    """Tensors that a forward pass makes are of this type if it says nothing else; None changes nothing."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def types_of(model: nn.Module) -> dict[str, torch.dtype]:
    """The types of a model's parameters and buffers, by name."""
    return {name: part.dtype for name, part in _parts(model).items()}


def set_types(model: nn.Module, types: Mapping[str, torch.dtype]) -> None:
    """Give parameters and buffers the types that they had before."""
    for name, part in _parts(model).items():
        if part.dtype != types[name]:
            part.data = part.data.to(types[name])


def _parts(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
