"""From a recipe and the processes it gets to the plan of its run. Pure: nothing is started, read or written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

from pydantic import BaseModel, ConfigDict

from launcher.errors import Mistake, RequestError
from launcher.plan.batch import BatchPlan, solve_batch
from launcher.plan.deepspeed import ZeroTraffic, deepspeed_config, refuse_what_a_cpu_lacks, zero_traffic
from launcher.plan.equal_steps import refuse_unequal_steps
from launcher.plan.exact import ExactCost, exact_cost, refuse_too_many_ranks
from launcher.plan.fitting import FoundMicro, unseen_limits
from launcher.plan.learning_rate import LearningRatePlan, RateStage, in_updates
from launcher.plan.length import LengthPlan, last_windowing, plan_length, updates_of_epochs
from launcher.plan.past import after, up_to
from launcher.plan.sharded import ShardedCost, refuse_copies_without_parts, sharded_cost
from launcher.plan.stages import StagePlan, plan_stages, solve_schedule
from launcher.plan.topology import Topology
from launcher.plan.warnings import compiler_warnings, plan_warnings
from launcher.plan.windows import Stage, Window, windows_of_run
from launcher.recipe.schema import Recipe

GRADIENT_BYTES = 4  # of one parameter: gradients are kept and reduced in fp32


class ReductionPlan(BaseModel):
    """What crosses the network.

    Attributes:
        parameters: that are trained.
        bytes_per_update: of gradient that one rank hands to reductions per update.
        bytes_without_no_sync: the same if every micro-step reduced.
        gathered_bytes: of parameters that a rank is given per update, at most, where the ranks hold the model in parts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int
    bytes_per_update: int
    bytes_without_no_sync: int
    gathered_bytes: int = 0


class Plan(BaseModel):
    """Everything that is decided before a run starts; the workers receive it and hold themselves to it.

    Attributes:
        recipe: the recipe.
        topology: the processes.
        batch: the batch of every full window, from the end of the batch schedule on.
        stages: the global batches of the run, in order; the last one is that of `batch`.
        length: how long the run is.
        learning_rate: the rate of every update.
        reduction: bytes that cross the network; None while the parameters are not known.
        warnings: what will hurt, the worst first.
        found: micro-batches that the run has found by trying, in the order of the updates from which on they hold; the
            last one is that of `batch`.
        past: the windows that the run had taken when it was forked to others: the first of its stages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    topology: Topology
    batch: BatchPlan
    stages: tuple[StagePlan, ...]
    length: LengthPlan
    learning_rate: LearningRatePlan
    reduction: ReductionPlan | None
    warnings: tuple[str, ...]
    found: tuple[FoundMicro, ...] = ()
    past: tuple[Stage, ...] = ()

    def windows(self, first_update: int = 0) -> Iterator[Window]:
        """The windows of the run from an update on; the length of the data must be known.

        Args:
            first_update: the update to start at, from 0.
        """
        if self.length.data_samples is None or self.length.updates is None:
            raise ValueError("the plan does not know the length of the data yet")
        windows = windows_of_run(
            data_samples=self.length.data_samples,
            global_batch=self.batch.global_,
            micro=self.batch.micro,
            world_size=self.topology.world_size,
            keep_tail=self.recipe.batch.tail == "keep",
            updates=self.length.updates,
            schedule=self._schedule,
            first_update=first_update,
            virtual_ranks=self.recipe.train.exact_ranks,
        )
        if len(self.found) < 2:
            return windows
        return (replace(window, micro=self._micro_at(window.update)) for window in windows)

    @property
    def ahead(self) -> tuple[StagePlan, ...]:
        """The stages that the recipe plans: all but those before a fork."""
        return self.stages[len(self.past) :]

    @property
    def _schedule(self) -> list[Stage]:
        """The stages before the last."""
        keep_tail = self.recipe.batch.tail == "keep"
        planned = [
            Stage(stage.global_, following.first_update - stage.first_update, keep_tail)
            for stage, following in pairwise(self.ahead)
        ]
        return [*self.past, *planned]

    def made(self, updates: int) -> tuple[Stage, ...]:
        """The windows of the first updates of the run, as a fork that begins after them keeps them."""
        last = Stage(self.batch.global_, updates, self.recipe.batch.tail == "keep")
        return tuple(up_to(updates, [*self._schedule, last]))

    @property
    def batches(self) -> list[int]:
        """The global batches that the recipe gives the run, in order."""
        return [*(stage.global_ for stage in self.recipe.batch.schedule), self.batch.global_]

    def _micro_at(self, update: int) -> int:
        """Samples per micro-step in an update (from 0): as many as in the launch that made it first."""
        held = [found.micro for found in self.found if found.since <= update]
        return min(held[-1] if held else self.found[0].micro, self.batch.global_)

    def global_batch_at(self, update: float) -> int:
        """Samples of a full window of the stage that an update (from 0) belongs to."""
        begun = (stage for stage in reversed(self.stages) if stage.first_update <= update)
        return next(begun, self.stages[0]).global_

    @property
    def sharded_cost(self) -> ShardedCost | None:
        """What a model in parts moves; None where each rank has the whole."""
        return sharded_cost(self.recipe, self.topology, self.batch)

    @property
    def exact_cost(self) -> ExactCost | None:
        """What `train.determinism: exact` costs the run; None without it."""
        gradient = self.reduction.parameters * GRADIENT_BYTES if self.reduction else None
        return exact_cost(self.recipe, self.topology.world_size, gradient)

    @property
    def zero_traffic(self) -> ZeroTraffic | None:
        """What DeepSpeed hands to the network; None for other engines."""
        return zero_traffic(self.recipe, self.batch)

    def to_json(self) -> str:
        """The plan as `plan.json` holds it."""
        return self.model_dump_json(by_alias=True, indent=2)


def make_plan(
    recipe: Recipe,
    topology: Topology,
    batchnorm: Sequence[str] = (),
    unread_task: bool = False,
    found: Sequence[FoundMicro] = (),
    past: Sequence[Stage] = (),
) -> Plan:
    """Work a recipe out for the processes that it gets.

    Args:
        recipe: the checked recipe.
        topology: the processes.
        batchnorm: places where the task's code names BatchNorm layers, for the warnings.
        unread_task: whether only running the task's code would tell how it writes its losses, for the warnings.
        found: micro-batches that the run has found by trying.
        past: the windows that the run had taken when it was forked to others.

    Raises:
        RequestError: a batch that cannot be, a run without a single update, or layers that the split does not suit.
    """
    virtual_ranks = recipe.train.exact_ranks
    refuse_too_many_ranks(virtual_ranks, topology.world_size)
    refuse_copies_without_parts(recipe, topology)
    batch = solve_batch(recipe.batch, topology.world_size, virtual_ranks, found[-1].micro if found else None)
    last = last_windowing(recipe, batch.global_)
    made = sum(stage.updates for stage in past)
    schedule = [*past, *after(made, solve_schedule(recipe.batch, last))]
    length = plan_length(recipe, schedule, last)
    stages = plan_stages(schedule, batch, recipe.lr_scaling, length.updates, virtual_ranks)
    ahead = stages[len(past) :]  # what was before is done, whatever it was
    refuse_unequal_steps(recipe, batch, ahead, length)
    if recipe.parallel.engine == "deepspeed":
        refuse_what_a_cpu_lacks(recipe, topology.device)
        deepspeed_config(recipe, batch, ahead)  # refuses what contradicts the recipe
    reduction = _reduction(recipe, topology, batch)
    shape = recipe.schedule
    of_epochs = partial(updates_of_epochs, recipe, schedule, last)
    warmup, *drops = (in_updates(place, shape.unit, length.updates, of_epochs) for place in (shape.warmup, *shape.at))
    rate = LearningRatePlan(
        base=recipe.optimizer.lr,
        scale=stages[-1].learning_rate_scale,
        shape=shape.name,
        warmup_updates=warmup or 0,
        updates=length.updates,
        final=shape.final,
        stages=tuple(
            RateStage(until=following.first_update, scale=stage.learning_rate_scale)
            for stage, following in pairwise(stages)
        ),
        drops=tuple(drop for drop in drops if drop is not None),
        drop_factor=shape.factor,
    )
    warnings = [
        *compiler_warnings(recipe, topology.device),
        *plan_warnings(recipe, batch, ahead, length, rate, batchnorm, unread_task),
    ]
    return Plan(
        recipe=recipe,
        topology=topology,
        batch=batch,
        stages=stages,
        length=length,
        learning_rate=rate,
        reduction=reduction,
        warnings=(*warnings, *unseen_limits(recipe, topology.device)),
        found=tuple(found),
        past=tuple(past),
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
    return plan_again(plan.model_copy(update={"recipe": recipe}), plan.topology)


def plan_again(plan: Plan, topology: Topology) -> Plan:
    """The plan of the same recipe for other processes, with the warnings that were given.

    Raises:
        RequestError: the recipe cannot be planned for them.
    """
    again = make_plan(plan.recipe, topology, found=plan.found, past=plan.past)
    return again.model_copy(update={"warnings": plan.warnings})


def with_past(plan: Plan, past: Sequence[Stage]) -> Plan:
    """The plan again, for a run that was forked after windows of other sizes."""
    return plan_again(plan.model_copy(update={"past": tuple(past)}), plan.topology)


def with_found(plan: Plan, found: Sequence[FoundMicro]) -> Plan:
    """The plan again, with the micro-batches that the run has found by trying."""
    return plan_again(plan.model_copy(update={"found": tuple(found)}), plan.topology)


def _reduction(recipe: Recipe, topology: Topology, batch: BatchPlan) -> ReductionPlan | None:
    parameters = recipe.model.parameters
    if parameters is None:
        return None
    traffic = zero_traffic(recipe, batch)
    if traffic is not None:
        every_step = traffic.reduced_bytes // traffic.times * batch.accumulation
        return ReductionPlan(
            parameters=parameters, bytes_per_update=traffic.reduced_bytes, bytes_without_no_sync=every_step
        )
    gradient = parameters * GRADIENT_BYTES if batch.world_size > 1 else 0
    sharded = sharded_cost(recipe, topology, batch)
    if sharded is not None:
        return ReductionPlan(
            parameters=parameters,
            bytes_per_update=round(gradient * sharded.reductions),
            bytes_without_no_sync=gradient * batch.accumulation,
            gathered_bytes=parameters * sharded.parameter_bytes * sharded.gathers,
        )
    exact = exact_cost(recipe, batch.world_size, gradient)
    reduced = gradient if exact is None or exact.bytes_per_update is None else exact.bytes_per_update
    return ReductionPlan(
        parameters=parameters,
        bytes_per_update=reduced,
        bytes_without_no_sync=reduced * batch.accumulation,
    )
