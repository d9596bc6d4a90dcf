"""The same recipe on other numbers of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.errors import Mistake, RequestError
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


def possible_worlds(recipe: Recipe, topology: Topology) -> list[int]:
    """The numbers of ranks that an elastic recipe may come to have, one for each number of machines; else none."""
    machines = recipe.launch.machines
    if not recipe.launch.elastic:
        return []
    return [topology.with_nodes(nodes).world_size for nodes in range(machines.least, machines.most + 1)]


def refuse_impossible_worlds(recipe: Recipe, topology: Topology) -> None:
    """Refuse an elastic recipe that could come to have machines on which it cannot be planned.

    Args:
        recipe: the recipe.
        topology: the processes on the fewest machines, with which it can be planned.

    Raises:
        RequestError: there is such a number of machines, with the range that works.
    """
    machines = recipe.launch.machines
    for nodes in range(machines.least + 1, machines.most + 1):
        try:
            make_plan(recipe, topology.with_nodes(nodes))
        except RequestError as error:
            raise RequestError(
                [
                    Mistake(
                        "launch.nodes",
                        f"cannot be {machines}: with {nodes} machines, {error.mistakes[0].wrong}",
                        f"Set launch.nodes={machines.least}:{nodes - 1}",
                    )
                ]
            ) from None


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
