"""How long a run is: updates, from epochs, samples or updates."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from launcher.errors import Mistake, RequestError
from launcher.plan.windowing import ENDLESS, Progress, Windowing
from launcher.plan.windows import Stage
from launcher.recipe.schema import Recipe, TrainSection


class LengthPlan(BaseModel):
    """How long the run is. What depends on the data is None while its length is not known.

    Attributes:
        data_samples: samples in the training data.
        updates_per_epoch: windows of an epoch, from the end of the batch schedule on: of one that begins after it.
        tail_samples: samples of such an epoch's short last window, stepped on or dropped; 0 when there is none.
        updates: optimizer steps of the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_samples: int | None
    updates_per_epoch: int | None
    tail_samples: int | None
    updates: int | None


def last_windowing(recipe: Recipe, global_batch: int) -> Windowing:
    """The windows from the end of the batch schedule on; over endless data where its length is not known.

    Args:
        recipe: the recipe.
        global_batch: samples of such a window.

    Raises:
        RequestError: the data does not fill a window, and the tail is dropped.
    """
    samples = recipe.data.samples
    windowing = Windowing(ENDLESS if samples is None else samples, global_batch, recipe.batch.tail == "keep")
    if windowing.per_epoch == 0:
        raise RequestError(
            [
                Mistake(
                    "batch.tail",
                    f"drop leaves nothing: the data has {samples} samples, fewer than batch.global {global_batch}",
                    f"Set batch.tail=keep, or batch.global={samples} or less",
                )
            ]
        )
    return windowing


def plan_length(recipe: Recipe, schedule: Sequence[Stage], last: Windowing) -> LengthPlan:
    """The length of a run.

    Args:
        recipe: the recipe.
        schedule: the stages before the last.
        last: the windows from the end of the schedule on.
    """
    samples, train = recipe.data.samples, recipe.train
    if samples is None:
        return LengthPlan(data_samples=None, updates_per_epoch=None, tail_samples=None, updates=train.updates)
    return LengthPlan(
        data_samples=samples,
        updates_per_epoch=last.per_epoch,
        tail_samples=last.tail_samples,
        updates=_updates(train, schedule, last),
    )


def updates_of_epochs(recipe: Recipe, schedule: Sequence[Stage], last: Windowing, epochs: int) -> int | None:
    """Updates that so many epochs have, whatever the length of the run; None while the length of the data is not known.

    Args:
        recipe: the recipe.
        schedule: the stages before the last.
        last: the windows from the end of the schedule on.
        epochs: how many.
    """
    if recipe.data.samples is None or not epochs:
        return None if epochs else 0
    return _updates(TrainSection(epochs=epochs), schedule, last)


def _updates(train: TrainSection, schedule: Sequence[Stage], last: Windowing) -> int | None:
    if train.epochs is None and train.samples is None:
        return train.updates
    progress = Progress()
    for stage in schedule:
        windowing = stage.windowing(last)
        needed = _needed(train, windowing, progress)
        if needed < stage.updates:
            return progress.update + needed
        progress = windowing.after(progress, stage.updates)
    return progress.update + _needed(train, last, progress)


def _needed(train: TrainSection, windowing: Windowing, progress: Progress) -> int:
    """Updates to the end of the run, if all its windows from here on were like this."""
    if train.epochs is not None:
        return windowing.updates_to_finish(progress, train.epochs)
    return windowing.updates_to_take(progress, (train.samples or 0) - progress.samples_seen)
