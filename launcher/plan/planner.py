"""From a recipe and the processes it gets to the plan of its run. Pure: nothing is started, read or written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from launcher.errors import Mistake, RequestError
from launcher.plan.batch import BatchPlan, solve_batch
from launcher.plan.learning_rate import LearningRatePlan, batch_scale, warmup_updates
from launcher.plan.topology import Topology
from launcher.plan.warnings import plan_warnings
from launcher.plan.windows import Window, windows_of_run
from launcher.recipe.schema import Recipe, TrainSection

GRADIENT_BYTES = 4  # of one parameter: gradients are kept and reduced in fp32


class LengthPlan(BaseModel):
    """How long the run is. What depends on the data is None while its length is not known.

    Attributes:
        data_samples: samples in the training data.
        updates_per_epoch: windows of an epoch.
        tail_samples: samples of an epoch's short last window, stepped on or dropped; 0 when there is none.
        updates: optimizer steps of the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_samples: int | None
    updates_per_epoch: int | None
    tail_samples: int | None
    updates: int | None


class ReductionPlan(BaseModel):
    """What crosses the network: bytes of gradient that one rank hands to all-reduce per update."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int
    bytes_per_update: int
    bytes_without_no_sync: int


class Plan(BaseModel):
    """Everything that is decided before a run starts; the workers receive it and hold themselves to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    topology: Topology
    batch: BatchPlan
    length: LengthPlan
    learning_rate: LearningRatePlan
    reduction: ReductionPlan | None
    warnings: tuple[str, ...]

    def windows(self) -> Iterator[Window]:
        """The windows of the run, update by update; the length of the data must be known."""
        if self.length.data_samples is None or self.length.updates is None:
            raise ValueError("the plan does not know the length of the data yet")
        return windows_of_run(
            data_samples=self.length.data_samples,
            global_batch=self.batch.global_,
            micro=self.batch.micro,
            world_size=self.topology.world_size,
            keep_tail=self.recipe.batch.tail == "keep",
            updates=self.length.updates,
        )

    def to_json(self) -> str:
        """The plan as `plan.json` holds it."""
        return self.model_dump_json(by_alias=True, indent=2)


def make_plan(recipe: Recipe, topology: Topology, batchnorm: Sequence[str] = (), unread_task: bool = False) -> Plan:
    """Work a recipe out for the processes that it gets.

    Args:
        recipe: the checked recipe.
        topology: the processes.
        batchnorm: places where the task's code names BatchNorm layers, for the warnings.
        unread_task: whether only running the task's code would tell how it writes its losses, for the warnings.

    Raises:
        RequestError: a batch that cannot be, or a run without a single update.
    """
    batch = solve_batch(recipe.batch, topology.world_size)
    length = _length(recipe, batch)
    reduction = _reduction(recipe.model.parameters, batch)
    rate = LearningRatePlan(
        base=recipe.optimizer.lr,
        scale=batch_scale(recipe.lr_scaling, batch.global_),
        shape=recipe.schedule.name,
        warmup_updates=warmup_updates(recipe.schedule, length.updates),
        updates=length.updates,
        final=recipe.schedule.final,
    )
    warnings = plan_warnings(recipe, batch, rate, length.tail_samples, batchnorm, unread_task)
    return Plan(
        recipe=recipe,
        topology=topology,
        batch=batch,
        length=length,
        learning_rate=rate,
        reduction=reduction,
        warnings=tuple(warnings),
    )


def with_facts(plan: Plan, *, samples: int, parameters: int) -> Plan:
    """The plan again, now that the data and the model are there.

    Raises:
        RequestError: the recipe says another number than the data or the model has.
    """
    if samples == 0:
        raise RequestError([Mistake("task", "its training data is empty", "Let train_data() return some samples")])
    found = {"data.samples": samples, "model.parameters": parameters}
    said = {"data.samples": plan.recipe.data.samples, "model.parameters": plan.recipe.model.parameters}
    wrong = [
        Mistake(key, f"the recipe says {said[key]}, but there are {found[key]}", f"Set {key}={found[key]}")
        for key in found
        if said[key] not in (None, found[key])
    ]
    if wrong:
        raise RequestError(wrong)
    data = plan.recipe.data.model_copy(update={"samples": samples})
    model = plan.recipe.model.model_copy(update={"parameters": parameters})
    recipe = plan.recipe.model_copy(update={"data": data, "model": model})
    replanned = make_plan(recipe, plan.topology)
    return replanned.model_copy(update={"warnings": plan.warnings})


def _length(recipe: Recipe, batch: BatchPlan) -> LengthPlan:
    samples, train = recipe.data.samples, recipe.train
    if samples is None:
        return LengthPlan(data_samples=None, updates_per_epoch=None, tail_samples=None, updates=train.updates)
    full, tail = divmod(samples, batch.global_)
    keep = recipe.batch.tail == "keep"
    per_epoch = full + (1 if tail and keep else 0)
    if per_epoch == 0:
        raise RequestError(
            [
                Mistake(
                    "batch.tail",
                    f"drop leaves nothing: the data has {samples} samples, fewer than batch.global {batch.global_}",
                    f"Set batch.tail=keep, or batch.global={samples} or less",
                )
            ]
        )
    epoch_samples = samples if keep else full * batch.global_
    updates = _updates(train, per_epoch, epoch_samples, batch.global_)
    return LengthPlan(data_samples=samples, updates_per_epoch=per_epoch, tail_samples=tail, updates=updates)


def _updates(train: TrainSection, per_epoch: int, epoch_samples: int, global_batch: int) -> int | None:
    if train.epochs is not None:
        return train.epochs * per_epoch
    if train.samples is not None:
        epochs, rest = divmod(train.samples, epoch_samples)
        return epochs * per_epoch + -(-rest // global_batch)
    return train.updates


def _reduction(parameters: int | None, batch: BatchPlan) -> ReductionPlan | None:
    if parameters is None:
        return None
    gradient = parameters * GRADIENT_BYTES if batch.world_size > 1 else 0
    return ReductionPlan(
        parameters=parameters,
        bytes_per_update=gradient,
        bytes_without_no_sync=gradient * batch.accumulation,
    )
