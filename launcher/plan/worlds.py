"""The same recipe on other numbers of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.errors import RequestError
from launcher.plan.planner import make_plan
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe


@dataclass(frozen=True)
class WorldRow:
    """What a recipe comes to on one number of ranks.

    Attributes:
        world_size: the number of ranks, W.
        global_batch: samples per update; 0 where the batch cannot be.
        most_steps: micro-steps of the busiest rank.
        fewest_steps: micro-steps of the idlest rank.
        efficiency: share of the ranks' time that is work, from 0 to 1.
        peak_rate: peak learning rate.
        refusal: why the batch cannot be, if it cannot.
    """

    world_size: int
    global_batch: int = 0
    most_steps: int = 0
    fewest_steps: int = 0
    efficiency: float = 0.0
    peak_rate: float = 0.0
    refusal: str = ""


def compare_worlds(recipe: Recipe, worlds: Sequence[int]) -> list[WorldRow]:
    """One row for each number of ranks."""
    return [_row(recipe, world_size) for world_size in worlds]


def _row(recipe: Recipe, world_size: int) -> WorldRow:
    try:
        plan = make_plan(recipe, Topology(nodes=1, nproc_per_node=world_size, device="cpu"))
    except RequestError as error:
        return WorldRow(world_size, refusal=error.mistakes[0].wrong)
    batch = plan.batch
    return WorldRow(
        world_size=world_size,
        global_batch=batch.global_,
        most_steps=batch.accumulation,
        fewest_steps=min(batch.micro_steps),
        efficiency=batch.efficiency,
        peak_rate=plan.learning_rate.peak,
    )
