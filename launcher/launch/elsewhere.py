"""A recipe for where it will run, when that is not the process that has read it. It writes and starts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from launcher.errors import Mistake, RequestError
from launcher.plan.planner import Plan
from launcher.plan.topology import Machine
from launcher.recipe.files import without_dots
from launcher.recipe.schema import Recipe


def as_planned(plan: Plan) -> Recipe:
    """The recipe with what was worked out here: a place with less must refuse it, and not train something else.

    Its paths hold no "..", for the folders that these go through may not be there.

    Args:
        plan: the plan.
    """
    recipe, launch = plan.recipe, plan.recipe.launch
    placed: dict[str, Any] = {"nproc_per_node": plan.topology.nproc_per_node, "device": plan.topology.device}
    changes: dict[str, Any] = {}
    if launch.accelerate.config_file:
        file = _named(launch.accelerate.config_file)
        placed["accelerate"] = launch.accelerate.model_copy(update={"config_file": file})
    if recipe.task and recipe.task.entry.rpartition(":")[0].endswith(".py"):
        changes["task"] = recipe.task.model_copy(update={"entry": _named(recipe.task.entry)})
    if recipe.script:
        changes["script"] = recipe.script.model_copy(update={"path": _named(recipe.script.path)})
    return recipe.model_copy(update={**changes, "launch": launch.model_copy(update=placed)})


def _named(file: str) -> str:
    """A file, or an entry in one, as a recipe names it."""
    return str(without_dots(Path(file)))


def code_folders(recipe: Recipe, recipe_folder: Path | None = None) -> list[Path]:
    """The folders that a run reads: those of the recipe, of its code, and of the user's accelerate config.

    Args:
        recipe: the recipe.
        recipe_folder: where it lies, absolute; None where the run has a copy of it.
    """
    files = [recipe.task.entry.rpartition(":")[0]] if recipe.task else []
    files += [recipe.script.path] if recipe.script else []
    files += [recipe.launch.accelerate.config_file] if recipe.launch.accelerate.config_file else []
    folders = (without_dots(Path(file)).parent for file in files if Path(file).is_absolute())
    return list(dict.fromkeys([*([recipe_folder] if recipe_folder else []), *folders]))


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


def refuse_unset(key: str, named: Iterable[str], inherited: Mapping[str, str]) -> None:
    """Make sure that the variables which a recipe names to hand on are there.

    Args:
        key: the key that names them.
        named: their names.
        inherited: the environment here.

    Raises:
        RequestError: one is not set, or holds nothing.
    """
    missing = [name for name in named if not inherited.get(name)]
    if missing:
        raise RequestError(
            [Mistake(key, f"{name} is not set in your environment", "Set it, or do without it") for name in missing]
        )
