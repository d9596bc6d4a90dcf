"""`launcher submit`: hand a recipe to an engine that runs it elsewhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.arguments import OverridesArgument, RecipeArgument, Resume, ResumeOption, RunIdOption, RunsOption


class Engine(str, Enum):
    """What takes jobs; `submit_` and its name is the module that knows how."""

    SLURM = "slurm"
    RAY = "ray"
    DOCKER = "docker"
    SKYPILOT = "skypilot"
    KUBERNETES = "kubernetes"


def submit(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    to: Annotated[Engine, typer.Option("--to", help="What takes the job.")] = Engine.SLURM,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be submitted, and do nothing.")] = False,
    runs: RunsOption = Path("runs"),
    run_id: RunIdOption = None,
    resume: ResumeOption = Resume.NEVER,
) -> None:
    """Hand a recipe to an engine that takes jobs, which runs it when it has the machines."""
    from functools import partial
    from importlib import import_module

    from launcher.cli.run_here import RunChoice
    from launcher.cli.submitting import preview_job, submit_job

    engine = import_module(f"launcher.cli.submit_{to.value}")
    request = engine.read(recipe, overrides or [], runs)
    choice = RunChoice(runs, run_id, resume is Resume.AUTO)
    job = partial(engine.job, request, resume=choice.resume)
    if dry_run:
        typer.echo(preview_job(request, choice, job))
        return
    raise typer.Exit(submit_job(request, choice, job, partial(engine.send, request)))
