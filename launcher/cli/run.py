"""`launcher run`: run a recipe on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.arguments import OverridesArgument, RecipeArgument, Resume, ResumeOption, RunIdOption, RunsOption


def run(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be executed, and do nothing.")] = False,
    runs: RunsOption = Path("runs"),
    run_id: RunIdOption = None,
    resume: ResumeOption = Resume.NEVER,
    fork: Annotated[
        bool, typer.Option("--fork", help="With --resume auto: go on although the recipe has changed.")
    ] = False,
) -> None:
    """Run a recipe on this machine."""
    import os

    from launcher.cli.preview import preview
    from launcher.cli.request import read_request
    from launcher.launch.deepspeed import refuse_missing_deepspeed
    from launcher.runners.place import slurm_place

    request = read_request(recipe, overrides or [])
    place = None if request.plan.recipe.launch.elastic else slurm_place(os.environ)
    if place is not None and place.nodes != request.plan.topology.nodes:
        raise request.other_machines(place.nodes)
    spec = preview(request, runs, run_id)
    if spec is None and (place is None or dry_run):
        raise request.several_machines("Hand it to Slurm by launcher submit, or set launch.nodes=1")
    if dry_run and spec is not None:
        typer.echo(spec.as_shell())
        return
    refuse_missing_deepspeed(request.plan.recipe)
    from launcher.cli.run_elastic import run_elastic
    from launcher.cli.run_here import RunChoice, run_here
    from launcher.cli.run_placed import run_placed

    choice = RunChoice(runs, run_id, resume is Resume.AUTO, fork, patient=place is not None)
    if place is not None and place.nodes > 1:
        raise typer.Exit(run_placed(request, choice, place))
    start = run_elastic if request.plan.recipe.launch.elastic else run_here
    raise typer.Exit(start(request, choice))
