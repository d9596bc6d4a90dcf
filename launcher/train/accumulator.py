"""The window: micro-steps whose gradients add up to those of the big batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from launcher.plan.windows import Window
from launcher.train.engines.base import Engine
from launcher.train.task import Loss, losses_of


@dataclass(frozen=True)
class MicroBatchData:
    """One micro-batch, ready for the model.

    Attributes:
        data: what the task's `collate` made, on the model's device.
        samples: how many samples count: all of them, or 0 for the filler of a rank that has none.
    """

    data: Any
    samples: int


class Accumulator:
    """Takes a rank's share of a window through forward and backward.

    After it, the gradients of every rank are those of the whole window as one batch: the sum over all samples of all
    ranks of the gradient of their losses, divided once by the number of samples.

    Args:
        engine: owns gradient sync.
        loss: `Task.loss`.
        precision: the context that a forward pass runs in (autocast, or nothing); entered again and again.
    """

    def __init__(
        self,
        engine: Engine,
        loss: Callable[[nn.Module, Any], Tensor | Loss],
        precision: AbstractContextManager[Any],
    ) -> None:
        self._engine = engine
        self._loss = loss
        self._precision = precision

    def accumulate(self, window: Window, share: Sequence[MicroBatchData]) -> Tensor:
        """Run the micro-steps of one window; gradients are reduced at the last one.

        Args:
            window: the window.
            share: this rank's micro-batches, at least one.

        Returns:
            This rank's part of the window's loss, a scalar; the parts of all ranks add up to its weighted mean.
        """
        parts: list[Tensor] = []
        boundary = len(share) - 1
        for step, micro_batch in enumerate(share):
            with self._engine.micro_step(boundary=step == boundary):
                with self._precision:
                    (loss,) = losses_of(self._loss(self._engine.module, micro_batch.data))
                # In half precision the weight itself would be rounded; float64 stays what it is.
                value = loss.value if loss.value.dtype == torch.float64 else loss.value.float()
                part = value * weight(loss, micro_batch.samples, window.items)
                self._engine.backward(part)
                parts.append(part.detach())
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


def weight(loss: Loss, items: int, window_items: int) -> float:
    """What to multiply a micro-batch's loss by, so that a window adds up to its mean over all items.

    The one division of an update: `loss / accumulation_steps` would weigh short micro-batches too much.

    Args:
        loss: the micro-batch's loss, a mean or a sum over its items.
        items: the micro-batch's items; 0 for a filler.
        window_items: all items of all ranks in the window, N.
    """
    if items == 0:
        return 0.0
    return items / window_items if loss.reduction == "mean" else 1 / window_items
