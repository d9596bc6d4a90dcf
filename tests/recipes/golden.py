"""The launches of the shipped recipes, of an elastic one and of one with its own accelerate config, to be compared.

`python -m tests.recipes.golden` writes them anew.
"""

from __future__ import annotations

from pathlib import Path

from launcher.launch.build import build_launch
from launcher.launch.torchrun import Meeting
from launcher.plan.planner import make_plan
from launcher.plan.topology import Machine, Topology
from launcher.recipe.load import load_recipe
from launcher.recipe.task_code import batchnorm_uses
from launcher.rundir.layout import RunDirectory
from tests.processes import ROOT

GOLDEN = Path(__file__).parent / "golden"
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml"))
OTHERS = [ROOT / "tests" / "tasks" / "elastic.yaml", ROOT / "tests" / "tasks" / "own_config.yaml"]
ALL = [*RECIPES, *OTHERS]


def golden_file(recipe: Path) -> Path:
    if recipe in OTHERS:
        return GOLDEN / f"{recipe.stem}.sh"
    return GOLDEN / ("-".join(recipe.relative_to(ROOT / "recipes").with_suffix("").parts) + ".sh")


def launch_text(path: Path) -> str:
    """The launch of a recipe on two ranks of a machine with eight cores, the project's folder written as PROJECT."""
    recipe = load_recipe(path).recipe
    plan = make_plan(recipe, Topology(nodes=1, nproc_per_node=2, device="cpu"), batchnorm_uses(recipe))
    launch, run, machine = recipe.launch, RunDirectory(Path("/runs/id")), Machine(cpus=8, gpus=0)
    meeting = Meeting("head:29400", "id", launch.machines) if launch.elastic else None
    spec = build_launch(plan, run, machine, {}, python="python", meeting=meeting)
    return spec.as_shell().replace(str(ROOT), "PROJECT") + "\n"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for recipe_file in ALL:
        golden_file(recipe_file).write_text(launch_text(recipe_file))
