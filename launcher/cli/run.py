"""`launcher run`: run a recipe on this machine."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.arguments import OverridesArgument, RecipeArgument, Resume, ResumeOption, RunIdOption, RunsOption


class Inside(str, Enum):
    """What makes the place that a recipe runs in."""

    DOCKER = "docker"


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
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", metavar="N", help="Machines that are started by hand, each by this command."),
    ] = None,
    node_rank: Annotated[
        int | None, typer.Option("--node-rank", metavar="R", help="Which of them this is, from 0; 0 leads.")
    ] = None,
    rendezvous: Annotated[
        str | None, typer.Option("--rendezvous", metavar="HOST:PORT", help="Machine 0, and a port there that is free.")
    ] = None,
    job: Annotated[str, typer.Option("--job", hidden=True, help="Go on with a run of this job alone.")] = "",
    inside: Annotated[
        tuple[Inside, str] | None,
        typer.Option("--in", metavar="docker IMAGE", help="Run it in a container of an image that has the launcher."),
    ] = None,
) -> None:
    """Run a recipe on this machine."""
    import os

    from launcher.cli.by_hand import request_by_hand
    from launcher.cli.preview import preview
    from launcher.cli.request import read_request
    from launcher.cli.run_here import RunChoice, run_here
    from launcher.launch.deepspeed import refuse_missing_deepspeed
    from launcher.launch.ray import refuse_missing_ray
    from launcher.runners.place import place_by_hand, slurm_place

    place = place_by_hand(nodes, node_rank, rendezvous)
    if inside is not None:
        from launcher.cli.run_docker import run_inside

        choice = RunChoice(runs, run_id, resume is Resume.AUTO, fork)
        raise typer.Exit(run_inside(inside[1], recipe, overrides or [], choice, place, dry_run=dry_run))
    if place is not None:
        request = request_by_hand(recipe, overrides or [], place, os.environ)
    else:
        request = read_request(recipe, overrides or [])
        launch = request.plan.recipe.launch
        place = None if launch.elastic or launch.method == "ray" else slurm_place(os.environ)
        if place is not None and place.nodes != request.plan.topology.nodes:
            raise request.other_machines(place.nodes)
    spec = preview(request, runs, run_id, place)
    if spec is None and (place is None or dry_run):
        raise request.several_machines(
            "Hand it to Slurm by launcher submit, start each by --nodes, --node-rank and --rendezvous, or set "
            "launch.nodes=1"
        )
    if dry_run and spec is not None:
        typer.echo(spec.as_shell())
        return
    refuse_missing_deepspeed(request.plan.recipe)
    refuse_missing_ray(request.plan.recipe)
    from launcher.cli.run_elastic import run_elastic
    from launcher.cli.run_placed import run_placed

    patient = place is not None and not place.by_hand
    choice = RunChoice(runs, run_id, resume is Resume.AUTO, fork, patient, job or None)
    if place is not None and place.nodes > 1:
        raise typer.Exit(run_placed(request, choice, place))
    start = run_elastic if request.plan.recipe.launch.elastic else run_here
    raise typer.Exit(start(request, choice))
