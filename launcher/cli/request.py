"""What every command on a recipe begins with: the recipe, the machine, the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import Mistake, RequestError
from launcher.launch.own_config import own_config
from launcher.launch.ray import machine_of
from launcher.plan.planner import Plan, make_plan
from launcher.plan.topology import Machine, choose_topology
from launcher.plan.worlds import refuse_impossible_worlds
from launcher.recipe.load import LoadedRecipe, load_recipe
from launcher.recipe.schema import Recipe
from launcher.recipe.task_code import batchnorm_uses
from launcher.recipe.task_methods import written_methods
from launcher.words import plural


@dataclass(frozen=True)
class Request:
    """A recipe that can run, with its plan for this machine.

    Attributes:
        loaded: the recipe.
        machine: this machine.
        plan: the plan.
        written: which of `loss`, `trunk` and `heads` the task writes; None if only running its code would tell.
    """

    loaded: LoadedRecipe
    machine: Machine
    plan: Plan
    written: frozenset[str] | None

    def several_machines(self, cure: str = "Set launch.nodes=1") -> RequestError:
        """The refusal of a plan for more machines than this one.

        Args:
            cure: what to do about it.
        """
        mistake = Mistake("launch.nodes", "this command starts the ranks of one machine", cure)
        return RequestError([mistake]).located(self.loaded.marks)

    def other_machines(self, nodes: int) -> RequestError:
        """The refusal of a plan where another number of launchers was started than it has machines."""
        mistake = Mistake(
            "launch.nodes",
            f"is {self.plan.topology.nodes}, and srun has started {plural(nodes, 'launcher')}",
            f"Set launch.nodes={nodes}, or start as many",
        )
        return RequestError([mistake]).located(self.loaded.marks)


def read_request(path: Path, overrides: Sequence[str], machine_of: Callable[[Recipe], Machine] = machine_of) -> Request:
    """Load a recipe and plan it for this machine, or for another.

    Args:
        path: the recipe file.
        overrides: `key.path=value` strings, later ones winning.
        machine_of: the machine that a recipe will run on; a RequestError of its own has its places added.

    Raises:
        RequestError: with every mistake, each with its place in the recipe.
    """
    loaded = load_recipe(path, overrides)
    try:
        machine = machine_of(loaded.recipe)
        topology = choose_topology(loaded.recipe.launch, machine)
        written = written_methods(loaded.recipe)
        plan = make_plan(loaded.recipe, topology, batchnorm_uses(loaded.recipe), unread_task=written is None)
        refuse_impossible_worlds(loaded.recipe, topology)
        own = own_config(plan)
    except RequestError as error:
        raise error.located({"": str(path), **loaded.marks}) from None
    if own:
        plan = plan.model_copy(update={"warnings": (*plan.warnings, *own.ignored)})
    return Request(loaded, machine, plan, written)
