"""`launcher submit`: hand a recipe to an engine that runs it elsewhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.arguments import OverridesArgument, RecipeArgument
from launcher.cli.run import Resume


class Engine(str, Enum):
    """What takes jobs."""

    SLURM = "slurm"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


def submit(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    to: Annotated[Engine, typer.Option("--to", help="What takes the job.")] = Engine.SLURM,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be submitted, and do nothing.")] = False,
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of all runs.")] = Path("runs"),
    run_id: Annotated[
        str | None,
        typer.Option("--run-id", metavar="ID", help="Name of the run's folder; default: name and time."),
    ] = None,
    resume: Annotated[
        Resume, typer.Option("--resume", help="auto goes on with the run of that id, or the newest that is not done.")
    ] = Resume.NEVER,
) -> None:
    """Hand a recipe to Slurm, which runs it when it has the machines, to Kubernetes, or to Docker on this machine."""
    from launcher.cli.request import read_request
    from launcher.cli.run_here import RunChoice

    choice = RunChoice(runs, run_id, resume is Resume.AUTO)
    if to is Engine.DOCKER:
        from launcher.cli.run_docker import preview_container, submit_container

        request = read_request(recipe, overrides or [])
        if dry_run:
            typer.echo(preview_container(request, choice, None, detached=True).as_shell())
            return
        raise typer.Exit(submit_container(request, choice))
    if to is Engine.KUBERNETES:
        from launcher.cli.submit_kubernetes import preview_kubernetes, submit_kubernetes
        from launcher.launch.kubernetes_fit import cluster_machine

        request = read_request(recipe, overrides or [], cluster_machine)
        if dry_run:
            typer.echo(preview_kubernetes(request, choice).as_shell())
            return
        raise typer.Exit(submit_kubernetes(request, choice))
    from launcher.cli.submit_slurm import preview_job, submit_job
    from launcher.launch.slurm_fit import node_machine, refuse_folder

    request = read_request(recipe, overrides or [], node_machine)
    refuse_folder(runs.absolute())
    if dry_run:
        typer.echo(preview_job(request, choice).as_shell())
        return
    raise typer.Exit(submit_job(request, choice))
