"""What kind of number a loss is: a mean over the items that are counted, or something else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from launcher.train.task import Loss

SETS = ("A", "B", "C", "AB", "AC", "BC")
"""Three groups of samples, and each two of them as one batch."""


@dataclass(frozen=True)
class Values:
    """One loss of the six batches in `SETS`.

    Attributes:
        reduction: what the task says that it is, "mean" or "sum".
        of: batch → its loss.
        items: batch → its items.
    """

    reduction: str
    of: Mapping[str, float]
    items: Mapping[str, int]

    def adds_up_as(self, reduction: str, tolerance: float) -> bool:
        """Whether the loss of two groups together is the mean over their items, or the sum, of those of each."""
        return all(
            abs(self.of[a + b] - self._together(a, b, reduction)) <= tolerance * self._scale
            for a, b in combinations("ABC", 2)
        )

    def hidden_weights(self) -> tuple[float, float, float] | None:
        """What each group weighs in the loss of two, if that is a weighted mean of theirs; A weighs 1."""
        b, c = self._weight("A", "B"), self._weight("A", "C")
        c_by_b = self._weight("B", "C")
        if all(map(math.isfinite, (b, c, c_by_b))) and min(b, c) > 0 and math.isclose(b * c_by_b, c, rel_tol=1e-3):
            return 1.0, b, c
        return None

    @property
    def _scale(self) -> float:
        return max(map(abs, self.of.values()))

    def _together(self, a: str, b: str, reduction: str) -> float:
        if reduction == "sum":
            return self.of[a] + self.of[b]
        return (self.items[a] * self.of[a] + self.items[b] * self.of[b]) / (self.items[a] + self.items[b])

    def _weight(self, a: str, b: str) -> float:
        """Of the second group, where the first weighs 1."""
        both = self.of[a + b]
        return (both - self.of[a]) / (self.of[b] - both) if self.of[b] != both else math.nan


def values_of(losses: Mapping[str, Sequence[Loss]], items: Mapping[str, Mapping[str, int]]) -> dict[str, Values]:
    """The values of each loss by its name, of those that every group has items of.

    Args:
        losses: batch → its losses.
        items: batch → items of each loss.
    """
    by_name = {batch: {loss.name: loss for loss in found} for batch, found in losses.items()}
    return {
        name: Values(
            loss.reduction,
            {batch: float(by_name[batch][name].value) for batch in SETS},
            {batch: items[batch][name] for batch in SETS},
        )
        for name, loss in by_name["A"].items()
        if all(items[batch][name] for batch in SETS)
    }
