"""What a sweep was asked for: its runs, each with its plan, and the folder that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.cli.request import Request, read_request
from launcher.errors import Mistake, RequestError, RunDirectoryUnusableError
from launcher.launch.slurm_fit import node_machine
from launcher.plan.sweep import SweepRun, grid
from launcher.plan.topology import this_machine
from launcher.recipe.load import load_recipe
from launcher.rundir.layout import RunDirectory
from launcher.runners.new_run import is_run_id


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep that can run.

    Attributes:
        run: its settings and its name.
        request: the recipe with them, and its plan.
        overrides: all that the recipe is told, besides its settings the group of the sweep.
        directory: where it lies, or will.
    """

    run: SweepRun
    request: Request
    overrides: tuple[str, ...]
    directory: RunDirectory


@dataclass(frozen=True)
class Sweep:
    """A sweep that can run.

    Attributes:
        recipe: the recipe file.
        folder: of its runs.
        runs: in the order of the grid.
    """

    recipe: Path
    folder: Path
    runs: tuple[PlannedRun, ...]

    @property
    def name(self) -> str:
        """Its id."""
        return self.folder.name


def read_sweep(
    recipe: Path, settings: Sequence[str], runs: Path, sweep_id: str | None, *, for_slurm: bool = False
) -> Sweep:
    """Plan all runs of a sweep, so that a mistake in one is told before the first begins.

    Args:
        recipe: the recipe file.
        settings: `key.path=a,b,c`.
        runs: the folder of all runs, in which the sweep gets one.
        sweep_id: its name; None takes that of the recipe.
        for_slurm: plan for the machines of a cluster and not for this one.

    Raises:
        RequestError: with every mistake, each told once.
        RunDirectoryUnusableError: the id is no name.
    """
    combinations = grid(settings)
    base = load_recipe(recipe).recipe
    name = f"{base.name}-sweep" if sweep_id is None else sweep_id
    if not is_run_id(name):
        raise RunDirectoryUnusableError(f"--sweep-id {name!r}: use up to 128 letters, digits, dots, dashes or _.")
    group = [] if base.tracking.wandb.group else [f"tracking.wandb.group={name}"]
    planned, mistakes = list[PlannedRun](), dict[str, Mistake]()
    for one in combinations:
        overrides = (*group, *one.overrides)
        try:
            request = read_request(recipe, overrides, node_machine if for_slurm else lambda _: this_machine())
            if not for_slurm:
                _refuse_other_machines(request)
        except RequestError as error:
            mistakes |= {str(mistake): mistake for mistake in error.mistakes}
            continue
        directory = RunDirectory((runs / name / one.run_id).absolute())
        planned.append(PlannedRun(one, request, overrides, directory))
    if mistakes:
        raise RequestError(mistakes.values())
    return Sweep(recipe, runs / name, tuple(planned))


def _refuse_other_machines(request: Request) -> None:
    launch = request.plan.recipe.launch
    if launch.elastic or request.plan.topology.nodes > 1:
        raise request.several_machines("Hand the sweep to Slurm by --to slurm, or set launch.nodes=1")
