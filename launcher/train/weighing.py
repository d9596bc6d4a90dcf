"""What a micro-batch weighs in its window. The one division of an update is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from launcher.train.task import Loss


def weight(loss: Loss, items: int, window_items: int) -> float:
    """What to multiply a micro-batch's loss by, so that a window adds up to its mean over all items.

    `loss / accumulation_steps` would weigh short micro-batches too much.

    Args:
        loss: the micro-batch's loss, a mean or a sum over its items.
        items: the micro-batch's items, at least one.
        window_items: all items of all ranks in the window, N.
    """
    return items / window_items if loss.reduction == "mean" else 1 / window_items


class WindowLosses:
    """Weighs the losses of a rank's micro-batches in one window, and adds up what they come to.

    Args:
        weights: name → weight of each loss, as the recipe has it.
        totals: all items of each loss in the window, over all ranks, N.
    """

    def __init__(self, weights: Mapping[str, float], totals: Sequence[int]) -> None:
        self._weights = weights
        self._totals = dict(zip(weights, totals, strict=True))
        self._parts: dict[str, list[Tensor]] = {name: [] for name in weights}

    def weigh(self, loss: Loss, items: int) -> Tensor:
        """The part of a loss in the window's, with its graph.

        In half precision the weight itself would be rounded: losses become float32 first, but float64 stays.
        """
        value = loss.value if loss.value.dtype == torch.float64 else loss.value.float()
        part = value * weight(loss, items, self._totals[loss.name])
        self._parts[loss.name].append(part.detach())
        factor = self._weights[loss.name]
        return part if factor == 1.0 else part * factor

    def sums(self, device: torch.device) -> Tensor:
        """This rank's part of the mean of each loss over the window, without the recipe's weights: float64, [T]."""
        nothing = torch.zeros((), dtype=torch.float64, device=device)
        return torch.stack([torch.stack(parts).double().sum() if parts else nothing for parts in self._parts.values()])
