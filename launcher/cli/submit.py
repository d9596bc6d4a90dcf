"""`launcher submit`: hand a recipe to an engine that runs it elsewhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.arguments import OverridesArgument, RecipeArgument, Resume, ResumeOption, RunIdOption, RunsOption


class Engine(str, Enum):
    """What takes jobs."""

    SLURM = "slurm"


def submit(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    to: Annotated[Engine, typer.Option("--to", help="What takes the job.")] = Engine.SLURM,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be submitted, and do nothing.")] = False,
    runs: RunsOption = Path("runs"),
    run_id: RunIdOption = None,
    resume: ResumeOption = Resume.NEVER,
) -> None:
    """Hand a recipe to Slurm, which runs it when it has the machines."""
    from launcher.cli.request import read_request
    from launcher.cli.run_here import RunChoice
    from launcher.cli.submit_slurm import preview_job, submit_job
    from launcher.launch.slurm_fit import node_machine, refuse_folder

    request = read_request(recipe, overrides or [], node_machine)
    refuse_folder(runs.absolute())
    choice = RunChoice(runs, run_id, resume is Resume.AUTO)
    if dry_run:
        typer.echo(preview_job(request, choice).as_shell())
        return
    raise typer.Exit(submit_job(request, choice))
