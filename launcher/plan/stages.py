"""The batch schedule: which global batch the windows have, from which update on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from launcher.errors import Mistake, RequestError
from launcher.plan.batch import BatchPlan
from launcher.plan.learning_rate import batch_scale
from launcher.plan.windowing import Progress, Windowing
from launcher.plan.windows import Stage, micro_steps
from launcher.recipe.schema import BatchSection, LrScalingSection


class StagePlan(BaseModel):
    """A part of the run whose windows have one size.

    While the length of the data is not known, a stage of so many samples is taken to have no tail: with tails it
    lasts for more updates, and those after it begin later.

    Attributes:
        global_: samples per update over all ranks.
        micro_steps: micro-steps of each rank in a full window.
        first_update: the update that the stage begins with, from 0.
        updates: updates that the run makes in it, 0 if the run ends before; None for the last stage of a run whose
            length is not known.
        learning_rate_scale: what lr_scaling multiplies the base rate by for this global batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    global_: int = Field(alias="global")
    micro_steps: tuple[int, ...]
    first_update: int
    updates: int | None
    learning_rate_scale: float


def solve_schedule(section: BatchSection, last: Windowing) -> tuple[Stage, ...]:
    """The stages before the last one, each with the updates that it takes.

    Args:
        section: the recipe's batch.
        last: the windows from the end of the schedule on; over endless data where its length is not known, so that
            a stage of `samples` takes samples/global updates, rounded up.

    Raises:
        RequestError: a stage has more samples per window than the data, whose tail is dropped.
    """
    if not last.keep_tail:
        too_large = list(_larger_than_the_data(section, last.data_samples))
        if too_large:
            raise RequestError(too_large)
    stages: list[Stage] = []
    progress = Progress()
    for stage in section.schedule:
        windows = replace(last, global_batch=stage.global_)
        # One of the two is given: a rule of the recipe.
        updates = windows.updates_to_take(progress, stage.samples) if stage.samples else stage.updates or 0
        progress = windows.after(progress, updates)
        stages.append(Stage(stage.global_, updates, last.keep_tail))
    return tuple(stages)


def _larger_than_the_data(section: BatchSection, data_samples: int) -> Iterator[Mistake]:
    for index, stage in enumerate(section.schedule):
        if stage.global_ > data_samples:
            yield Mistake(
                f"batch.schedule.{index}.global",
                f"batch.tail=drop leaves nothing: the data has {data_samples} samples, fewer than {stage.global_}",
                f"Set batch.tail=keep, or this to {data_samples} or less",
            )


def plan_stages(
    schedule: Sequence[Stage],
    batch: BatchPlan,
    scaling: LrScalingSection,
    updates: int | None,
    virtual_ranks: int | None = None,
) -> tuple[StagePlan, ...]:
    """All stages of a run; the last one, which has the batch of the plan, is the only one without a schedule.

    Args:
        schedule: the stages before the last.
        batch: the batch from the end of the schedule on.
        scaling: how the learning rate follows the batch.
        updates: updates of the run, if known.
        virtual_ranks: those that micro-batches are dealt to first in an exact run, V.
    """
    stages: list[StagePlan] = []
    first = 0
    for global_batch, planned in [*((stage.global_batch, stage.updates) for stage in schedule), (batch.global_, None)]:
        left = None if updates is None else max(0, updates - first)
        within = [most for most in (planned, left) if most is not None]
        stages.append(
            StagePlan(
                global_=global_batch,
                micro_steps=micro_steps(global_batch, batch.micro, batch.world_size, virtual_ranks),
                first_update=first,
                updates=min(within) if within else None,
                learning_rate_scale=batch_scale(scaling, global_batch),
            )
        )
        first += planned or 0
    return tuple(stages)
