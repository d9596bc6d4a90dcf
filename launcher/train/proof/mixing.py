"""Which layer lets a sample see the samples beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def first_mixing_layer(
    model: nn.Module, forward: Callable[[], object], wider: Callable[[], object], samples: int, tolerance: float
) -> str | None:
    """The first module whose outputs for some samples change when others come behind them in the batch.

    Args:
        model: the model; the first dimension of what its modules return is the batch.
        forward: takes the samples alone through the model.
        wider: takes them with others behind them.
        samples: how many they are.
        tolerance: relative difference that is rounding.

    Returns:
        Its name and type; None where no module's outputs change, as when it is the loss that mixes.
    """
    with _outputs_of(model) as alone:
        forward()
    with _outputs_of(model) as beside:
        wider()
    for (name, own), (_, among_others) in zip(alone, beside, strict=False):
        if any(_differ(one, other, samples, tolerance) for one, other in zip(own, among_others, strict=False)):
            return name
    return None


@contextmanager
def _outputs_of(model: nn.Module) -> Iterator[list[tuple[str, list[Tensor]]]]:
    """The tensors that each module returns, in the order in which they are done: parts before the whole."""
    outputs: list[tuple[str, list[Tensor]]] = []

    def noting(label: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = [leaf.detach() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
            outputs.append((label, tensors))

        return note

    handles = [
        module.register_forward_hook(noting(f"{name or 'the model itself'} ({type(module).__name__})"))
        for name, module in model.named_modules()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _differ(alone: Tensor, beside: Tensor, samples: int, tolerance: float) -> bool:
    """Whether the outputs for the samples differ, where both have one: padding at the end of each is left out."""
    if alone.ndim != beside.ndim or not alone.ndim or len(alone) != samples or len(beside) <= samples:
        return False
    common = tuple(slice(min(sizes)) for sizes in zip(alone.shape, beside.shape, strict=True))
    one, other = alone[common].double(), beside[common].double()
    scale = torch.linalg.vector_norm(one)
    return bool(torch.linalg.vector_norm(one - other) > 10 * tolerance * scale)
