"""`launcher sweep`: a recipe with each combination of some settings."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.arguments import RecipeArgument, RunsOption


class ArrayEngine(str, Enum):
    """What takes the runs of a sweep as an array of jobs."""

    SLURM = "slurm"


def sweep(
    recipe: RecipeArgument,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=A,B,C ...", help="Keys and their values, such as optimizer.lr=0.01,0.003."),
    ] = None,
    to: Annotated[
        ArrayEngine | None, typer.Option("--to", help="What takes the runs as an array of jobs; default: this machine.")
    ] = None,
    at_once: Annotated[
        int | None, typer.Option("--at-once", metavar="N", min=1, help="With --to: so many runs at the same time.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be executed, and do nothing.")] = False,
    results: Annotated[bool, typer.Option("--results", help="Print how the runs stand, and do nothing.")] = False,
    runs: RunsOption = Path("runs"),
    sweep_id: Annotated[
        str | None,
        typer.Option("--sweep-id", metavar="ID", help="Name of the sweep's folder in DIR; default: NAME-sweep."),
    ] = None,
) -> None:
    """Run a recipe with each combination of some settings, one after another; what is done is not done again."""
    from launcher.cli.sweep_here import commands, run_sweep
    from launcher.cli.sweep_request import read_sweep
    from launcher.cli.sweep_table import print_results
    from launcher.errors import Mistake, RequestError

    if to is None and at_once is not None:
        raise RequestError([Mistake("--at-once", "is for runs that an engine takes", "Say which: --to slurm")])
    asked = read_sweep(recipe, settings or [], runs, sweep_id, for_slurm=to is ArrayEngine.SLURM)
    if results:
        print_results(asked)
    elif to is ArrayEngine.SLURM:
        from launcher.cli.sweep_slurm import preview_array, submit_array

        if dry_run:
            typer.echo(preview_array(asked, at_once))
            return
        raise typer.Exit(submit_array(asked, at_once))
    elif dry_run:
        typer.echo("\n".join(commands(asked)))
    else:
        raise typer.Exit(run_sweep(asked))
