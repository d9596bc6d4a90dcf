"""A plan as JSON, for scripts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from launcher.launch.spec import LaunchSpec
from launcher.plan.editions import EditionRow
from launcher.plan.noise import BatchNoise
from launcher.plan.planner import Plan
from launcher.plan.worlds import WorldRow


def plan_as_json(
    plan: Plan, worlds: Sequence[WorldRow], editions: Sequence[EditionRow], spec: LaunchSpec | None
) -> dict[str, Any]:
    """The numbers of a plan that scripts ask for; numbers that depend on data of unknown length are null.

    Args:
        plan: the plan.
        worlds: the same recipe on other numbers of ranks.
        editions: the editions that several losses can go backward in.
        spec: the launch, if there is one.
    """
    return {
        "name": plan.recipe.name,
        "batch": {
            "global": plan.batch.global_,
            "micro": plan.batch.micro,
            "micro_is_the_most": plan.recipe.batch.micro == "auto" and not plan.found,
            "accumulation": plan.batch.accumulation,
            "world_size": plan.batch.world_size,
            "micro_steps": list(plan.batch.micro_steps),
            "efficiency": plan.batch.efficiency,
        },
        "stages": [stage.model_dump(by_alias=True, mode="json") for stage in plan.stages],
        "data_samples": plan.length.data_samples,
        "updates": plan.length.updates,
        "updates_per_epoch": plan.length.updates_per_epoch,
        "tail_samples": plan.length.tail_samples,
        "learning_rate": plan.learning_rate.peak,
        "warmup_updates": plan.learning_rate.warmup_updates,
        "reduction": plan.reduction.model_dump() if plan.reduction else None,
        "exact": asdict(plan.exact_cost) if plan.exact_cost else None,
        "multitask": {
            "losses": dict(plan.recipe.multitask.losses),
            "backward": plan.recipe.multitask.backward,
            "editions": [asdict(row) for row in editions],
        },
        "noise_scale": _noise_scale(plan),
        "worlds": [asdict(row) for row in worlds],
        "warnings": list(plan.warnings),
        "command": shlex.join(spec.argv) if spec else None,
    }


def _noise_scale(plan: Plan) -> dict[str, Any] | None:
    measured = plan.recipe.noise_scale.measured
    return None if measured is None else {"measured": measured, "batch": BatchNoise(plan.batch.global_, measured).side}
