"""Machines that are had from others, and cannot be seen from here: what a recipe must say of them."""

from __future__ import annotations

from launcher.errors import Mistake, RequestError
from launcher.plan.planner import Plan
from launcher.plan.topology import Machine
from launcher.recipe.schema import Recipe


def machine_elsewhere(recipe: Recipe, whose: str, cores: int | None = None) -> Machine:
    """The machine that a recipe asks for.

    Args:
        recipe: the recipe.
        whose: where the machines are, in words.
        cores: of each rank; by default one, and one for each of its data-loading processes.

    Raises:
        RequestError: the recipe does not say how many ranks a machine has.
    """
    launch, on_gpus = recipe.launch, recipe.launch.device != "cpu"
    if on_gpus and launch.nproc_per_node == "auto":
        wrong = f"auto is one rank for each GPU, and how many GPUs {whose} have cannot be seen from here"
        cure = "Set launch.nproc_per_node to a number, or launch.device=cpu"
        raise RequestError([Mistake("launch.nproc_per_node", wrong, cure)])
    ranks = 1 if launch.nproc_per_node == "auto" else launch.nproc_per_node
    return Machine(cpus=ranks * (cores or 1 + recipe.data.workers), gpus=ranks if on_gpus else 0)


def placed(plan: Plan) -> Recipe:
    """The recipe with what was worked out here: a machine with less must refuse it, and not train something else.

    Args:
        plan: the plan, for a machine as above.
    """
    update = {"nproc_per_node": plan.topology.nproc_per_node, "device": plan.topology.device}
    return plan.recipe.model_copy(update={"launch": plan.recipe.launch.model_copy(update=update)})
