"""What crosses the network for each update, as lines of a derivation."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.plan.deepspeed import ZeroTraffic
from launcher.plan.planner import Plan, ReductionPlan
from launcher.plan.sharded import ShardedCost
from launcher.words import plural, size

Line = tuple[str, str, str]  # what it is, its value, where the value comes from


def gradient_lines(plan: Plan) -> Iterator[Line]:
    """What crosses the network for each update."""
    reduction = plan.reduction
    if plan.topology.world_size == 1:
        yield "reduced", "0 B", "one rank has nobody to reduce with"
    elif plan.sharded_cost is not None:
        yield from _sharded_lines(plan, plan.sharded_cost)
    elif reduction is None:
        every_step = plan.recipe.parallel.abilities.reduces == "micro-step"
        many, when = (plan.batch.accumulation, "in every micro-step") if every_step else (1, "at the boundary")
        yield "reduced", f"{many} ×", f"the gradients per update, {when}; give model.parameters for bytes"
        if not every_step:
            yield "without no_sync", f"{plan.batch.accumulation} ×", "once per micro-step"
    elif plan.zero_traffic is not None:
        yield from _zero_lines(plan, plan.zero_traffic, reduction)
    else:
        exact = plan.exact_cost
        copies = 1 if exact is None else exact.copies_per_update
        times = "" if copies == 1 else f" × {copies:g}: exact, with blocks of virtual ranks that are not aligned"
        source = f"per update = {reduction.parameters:,} parameters × 4 B{times}"
        yield "reduced", size(reduction.bytes_per_update), source
        without = size(reduction.bytes_without_no_sync)
        yield "without no_sync", without, f"= {plan.batch.accumulation} × as much"
    if plan.recipe.batch.halves and plan.topology.world_size > 1:
        why = "when all ranks know that the window fitted (batch.on_out_of_memory: halve)"
        yield "when", "after", f"the last backward and not during it, {why}"
    if plan.recipe.train.accumulate_dtype is not None:
        late = plan.recipe.parallel.engine == "ddp" and plan.topology.world_size > 1
        after = ", whose gradients are reduced after the last backward" if late else ""
        yield "added up in", "fp32", f"train.accumulate_dtype: also those of bf16 and fp16 parameters{after}"
    yield from _exact_lines(plan)


def _sharded_lines(plan: Plan, cost: ShardedCost) -> Iterator[Line]:
    """What a model in parts moves for each update."""
    reduction, settings, steps = plan.reduction, plan.recipe.parallel.fsdp, plan.batch.accumulation
    each = f"of {cost.copies} copies, 1/{cost.shards} each" if cost.copies > 1 else f"1/{cost.shards} of the model"
    yield "held", f"1/{cost.shards}", f"{each}: parameters, gradients, optimizer state"
    wait = "whole until then" if settings.defer_reduction else "parallel.fsdp.defer_reduction=true reduces once"
    when = "at the boundary" if settings.defer_reduction else f"in each of {plural(steps, 'micro-step')}"
    per = "the gradients" if reduction is None else f"{reduction.parameters:,} parameters × 4 B"
    among = f" + 1/{cost.shards} between the copies" if cost.copies > 1 else ""
    times = f"{cost.reductions:.4g} ×"
    reduced = times if reduction is None else size(reduction.bytes_per_update)
    yield "reduced", reduced, f"per update = {times} {per}, {when}{among}; {wait}"
    gathered = f"{cost.gathers} ×" if reduction is None else size(reduction.gathered_bytes)
    twice = ", for each forward and each backward" if cost.gathers > steps else ", once for each forward and backward"
    rows = f"{cost.gathers} × {'the' if reduction is None else f'{reduction.parameters:,}'} parameters"
    yield "gathered", gathered, f"per update at most = {rows} × {cost.parameter_bytes} B{twice}"


def _zero_lines(plan: Plan, traffic: ZeroTraffic, reduction: ReductionPlan) -> Iterator[Line]:
    """What a ZeRO stage hands to the network."""
    stage, steps = plan.recipe.parallel.deepspeed.stage, plan.batch.accumulation
    copy = f"{reduction.parameters:,} parameters × {traffic.element_bytes} B"
    if plan.recipe.parallel.abilities.reduces == "boundary":
        yield "reduced", size(traffic.reduced_bytes), f"per update = {copy}, at the boundary (ZeRO {stage})"
        yield "without no_sync", size(reduction.bytes_without_no_sync), f"= {steps} × as much"
    else:
        yield "reduced", size(traffic.reduced_bytes), f"per update = {copy} × {plural(steps, 'micro-step')}"
        yield "no_sync", "none", f"ZeRO {stage} reduces in every micro-step: no rank keeps the whole gradient"
    if traffic.gathered_bytes:
        when = "once, after the step" if stage < 3 else f"2 × {plural(steps, 'micro-step')}, forward and backward"
        most = "" if stage < 3 else " at most"  # small parameters, and those that are soon needed again, stay whole
        yield "gathered", size(traffic.gathered_bytes), f"per update{most} = the parameters {when}"
    if traffic.uncounted:
        yield (
            "not counted",
            "",
            f"{', '.join(traffic.uncounted)} of parallel.deepspeed.config, which may change the bytes",
        )


def _exact_lines(plan: Plan) -> Iterator[Line]:
    """What exact costs beside the same training without it."""
    exact = plan.exact_cost
    if exact is None:
        return
    world, virtual = plan.topology.world_size, exact.virtual_ranks
    if world > 1:
        yield (
            "exact: bytes",
            f"{exact.copies_per_update:g} ×",
            "those of a ring all-reduce, added in the order of a tree",
        )
        when = "after the last backward"
        if exact.overlapped:
            when = f"while the last backward goes on: {plural(world, 'rank')} = {plural(virtual, 'virtual rank')}"
        elif world < virtual:
            when += f": {plural(world, 'rank')} < {plural(virtual, 'virtual rank')}"
        else:
            when += f": multitask.backward={plan.recipe.multitask.backward}"
        yield "exact: reduced", "overlaps" if exact.overlapped else "waits", when
    extra = "" if exact.extra_memory_bytes is None else f": {size(exact.extra_memory_bytes)} more"
    yield "exact: memory", f"{exact.gradient_copies} ×", f"the gradients, at most, where plain training holds 1{extra}"
