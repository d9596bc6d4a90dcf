"""The learning rate: how it follows the batch, and how it changes over the updates of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from launcher.recipe.schema import LrScalingSection


class RateStage(BaseModel):
    """A stage of the batch schedule, as the learning rate sees it.

    Attributes:
        until: the first update (from 0) that the stage does not have.
        scale: what lr_scaling multiplies the base rate by in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: int
    scale: float


class LearningRatePlan(BaseModel):
    """The learning rate of every update; it counts updates, never micro-steps or ranks.

    Attributes:
        base: the recipe's `optimizer.lr`.
        scale: what lr_scaling multiplies it by, from the end of the batch schedule on.
        shape: the schedule's name.
        warmup_updates: updates of linear warm-up.
        updates: updates of the run; None while the length of the data is not known.
        final: rate as the run ends, as a fraction of the peak.
        stages: the stages of the batch schedule before its end; empty without one.
        drops: of the shape step, the updates (from 0) from which on the rate is lower.
        drop_factor: what each drop multiplies the rate by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: float
    scale: float
    shape: Literal["constant", "linear", "cosine", "step"]
    warmup_updates: int
    updates: int | None
    final: float
    stages: tuple[RateStage, ...] = ()
    drops: tuple[int, ...] = ()
    drop_factor: float = 1.0

    @property
    def peak(self) -> float:
        """The rate at the top of the schedule with the batch that the run ends with: base times scale."""
        return self.base * self.scale

    def factor(self, update: int, skipped: int = 0) -> float:
        """The rate of an update as a fraction of the peak: of the schedule, and of the batch's stage.

        Args:
            update: the update, from 0.
            skipped: updates before it without a step, which held the schedule; the batch went on to its next stage.
        """
        return self._of_schedule(update - skipped) * (self.scale_at(update) / self.scale)

    def scale_at(self, update: int) -> float:
        """What lr_scaling multiplies the base rate by in the stage of an update (from 0)."""
        return next((stage.scale for stage in self.stages if update < stage.until), self.scale)

    def _of_schedule(self, update: int) -> float:
        """The rate of an update as a fraction of the top of the schedule.

        Warm-up is linear and its last update has the peak; after it the rate falls along a line or half a cosine
        (Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", without restarts), and
        would reach `final` at the update after the last one; or it drops now and then.
        """
        if update < self.warmup_updates:
            return (update + 1) / self.warmup_updates
        if self.shape == "step":
            return float(self.drop_factor ** sum(update >= drop for drop in self.drops))
        if self.shape == "constant" or self.updates is None:
            return 1.0
        progress = min(1.0, (update - self.warmup_updates) / max(1, self.updates - self.warmup_updates))
        fall = 1.0 - progress if self.shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.final + (1.0 - self.final) * fall

    def at(self, update: int, skipped: int = 0) -> float:
        """The learning rate of an update (from 0), of which so many before it were skipped."""
        return self.peak * self.factor(update, skipped)


def batch_scale(scaling: LrScalingSection, global_batch: int) -> float:
    """What to multiply the learning rate by when the global batch is not the reference batch.

    Linear: Goyal et al. 2017, "Accurate, Large Minibatch SGD"; square root: Krizhevsky 2014, "One weird trick for
    parallelizing convolutional neural networks".
    """
    if scaling.rule == "none" or scaling.reference_batch is None:
        return 1.0
    ratio = global_batch / scaling.reference_batch
    return ratio if scaling.rule == "linear" else math.sqrt(ratio)


def in_updates(
    place: float, unit: Literal["updates", "epochs"], updates: int | None, of_epochs: Callable[[int], int | None]
) -> int | None:
    """A place in the run as a number of updates; None while that is not known.

    Args:
        place: a whole number counts updates or epochs; a fraction is one of the run, rounded to whole updates.
        unit: what a whole number counts.
        updates: updates of the run; None while the length of the data is not known.
        of_epochs: tells how many updates so many epochs have.
    """
    if isinstance(place, int):
        return place if unit == "updates" else of_epochs(place)
    return None if updates is None else round(place * updates)
