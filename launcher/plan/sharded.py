"""What a model in parts moves over the network: parameters are gathered to be used, and gradients go back in parts."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.errors import Mistake, RequestError
from launcher.plan.batch import BatchPlan
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}  # of a parameter as it is gathered


@dataclass(frozen=True)
class ShardedCost:
    """What one rank is handed and given per update, in copies of the model.

    Attributes:
        shards: ranks that a copy of the model is shared out over.
        copies: of the model.
        reductions: copies of the gradients that are reduced.
        gathers: copies of the parameters that are gathered, at most: what is in no block is gathered half as often.
        parameter_bytes: of one parameter as it is gathered.
    """

    shards: int
    copies: int
    reductions: float
    gathers: int
    parameter_bytes: int


def sharded_cost(recipe: Recipe, topology: Topology, batch: BatchPlan) -> ShardedCost | None:
    """What the engine fsdp moves; None with another one, or where one rank has nobody to share with.

    Args:
        recipe: the recipe.
        topology: the processes.
        batch: the worked-out batch.
    """
    if recipe.parallel.engine != "fsdp" or topology.world_size == 1:
        return None
    settings = recipe.parallel.fsdp
    copies = topology.nodes if settings.replicas == "nodes" else 1
    shards = topology.world_size // copies
    again = bool(settings.wrap) and settings.reshard_after_forward
    return ShardedCost(
        shards=shards,
        copies=copies,
        reductions=(1 if settings.defer_reduction else batch.accumulation) + (1 / shards if copies > 1 else 0),
        gathers=batch.accumulation * (2 if again else 1),
        parameter_bytes=_BYTES[recipe.train.precision],
    )


def refuse_copies_without_parts(recipe: Recipe, topology: Topology) -> None:
    """Make sure that a copy of the model on each machine can be shared out there.

    Raises:
        RequestError: each machine has one process.
    """
    fsdp = recipe.parallel.engine == "fsdp" and recipe.parallel.fsdp.replicas == "nodes"
    if fsdp and topology.nodes > 1 and topology.nproc_per_node == 1:
        raise RequestError(
            [
                Mistake(
                    "parallel.fsdp.replicas",
                    "nodes shares the model out within each machine, and each has one process",
                    "Set it to none, or launch.nproc_per_node to 2 or more",
                )
            ]
        )
