"""The three ways through the losses of a micro-batch. The gradient is the same; memory and work are not.

joint       add the losses, one backward: all graphs live at once.                                       (Edition 1)
sequential  backward each loss as it is yielded: one graph lives where each loss has its own forward.    (Edition 2)
shared      detach the trunk's output, backward the heads in turn, then the trunk once.                  (Edition 3)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from launcher.train.task import Loss
from launcher.train.task_losses import TaskLosses

Weigh: TypeAlias = Callable[[Loss], Tensor | None]
"""The part of a loss in its window's, scaled for backward; None when it has no items."""
Edition: TypeAlias = Callable[[TaskLosses, nn.Module, Any, Weigh, AbstractContextManager[Any]], Tensor | None]
"""Takes a micro-batch forward, and backward unless it returns what to take backward.

Arguments: the losses of the task, the model, the batch, how losses are weighed, the context of a forward pass.
"""


def joint(
    losses: TaskLosses, model: nn.Module, batch: Any, weigh: Weigh, precision: AbstractContextManager[Any]
) -> Tensor | None:
    """Edition 1: the sum of the losses, to be taken backward at once; None when none has items."""
    total: Tensor | None = None
    with precision:
        for loss in losses.all(model, batch):
            part = weigh(loss)
            if part is not None:
                total = part if total is None else total + part
    return total


def sequential(
    losses: TaskLosses, model: nn.Module, batch: Any, weigh: Weigh, precision: AbstractContextManager[Any]
) -> None:
    """Edition 2: each loss backward as soon as it is yielded, before the next one is computed.

    Raises:
        ValueError: losses share a forward pass, and the task does not say so by writing `trunk` and `heads`.
    """
    yielded = losses.one_by_one(model, batch)
    while (loss := _next(yielded, precision)) is not None:
        part = weigh(loss)
        if part is not None:
            _backward_alone(part, retain_graph=not losses.have_own_graphs)
        del loss, part  # with them the graph of this loss, which a shared trunk retains, before the next has its own


def shared(
    losses: TaskLosses, model: nn.Module, batch: Any, weigh: Weigh, precision: AbstractContextManager[Any]
) -> None:
    """Edition 3: the trunk once, the heads in turn on its detached output, then the trunk backward once.

    Raises:
        TypeError: the trunk returned something else than tensors, in which some could hide that are not detached.
    """
    with precision:
        features = losses.trunk(model, batch)
    outputs, structure = tree_flatten(features)
    leaves = [_detached(output) for output in outputs]
    yielded = losses.of_heads(model, tree_unflatten(leaves, structure), batch)
    while (loss := _next(yielded, precision)) is not None:
        part = weigh(loss)
        if part is not None:
            part.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        del loss, part
    reached = [
        (output, leaf.grad)
        for output, leaf in zip(outputs, leaves, strict=True)
        if isinstance(leaf, Tensor) and leaf.grad is not None
    ]
    if reached:
        torch.autograd.backward([output for output, _ in reached], [gradient for _, gradient in reached])


_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device)
EDITIONS: dict[str, Edition] = {"joint": joint, "sequential": sequential, "shared": shared}


def _next(losses: Iterator[Loss], precision: AbstractContextManager[Any]) -> Loss | None:
    """The next loss; the forward pass in it runs in the context, the backward between two of them does not."""
    with precision:
        return next(losses, None)


def _detached(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach().requires_grad_() if output.requires_grad else output
    if output is None or isinstance(output, _PLAIN):
        return output
    raise TypeError(
        f"Task.trunk must return a tensor, or tensors in tuples, lists and dicts, not {type(output).__name__}"
    )


def _backward_alone(part: Tensor, *, retain_graph: bool) -> None:
    try:
        part.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    except RuntimeError as error:
        if "backward through the graph a second time" in str(error):
            raise ValueError(
                "the losses share a forward pass. Write it as Task.trunk and the losses as Task.heads, or set "
                "multitask.backward=joint"
            ) from error
        raise
