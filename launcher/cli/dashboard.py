"""`launcher dashboard`: the W&B workspace of a project, with the panels that answer its questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import OverridesArgument

if TYPE_CHECKING:  # typer itself needs none of it
    from launcher.dashboard.panels import Dashboard
    from launcher.recipe.schema import Recipe


def dashboard(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE|RUN", help="The recipe, or directory of a run.", show_default=False)
    ],
    overrides: OverridesArgument = None,
    report: Annotated[
        bool, typer.Option("--report", help="Make a report too, with the question of each part.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the workspace as JSON, and ask no server for anything.")
    ] = False,
) -> None:
    """Make the W&B workspace of a project, or bring it up to date."""
    from launcher.errors import Mistake, RequestError

    if report and dry_run:
        raise RequestError([Mistake("--report", "a report holds numbers of W&B's server", "Leave out --dry-run")])
    wanted = _wanted(recipe, overrides or [])
    if dry_run:
        typer.echo(_made("spec", wanted))
        return
    panels = sum(len(section.panels) for section in wanted.sections)
    typer.echo(f"W&B: {len(wanted.sections)} sections with {panels} panels for the project {wanted.project}")
    typer.echo(f"workspace: {_made('workspace', wanted)}")
    if report:
        typer.echo(f"report: {_made('report', wanted)}")


def _wanted(path: Path, overrides: list[str]) -> Dashboard:
    """The dashboard of a recipe, or of what a run has logged."""
    from launcher.dashboard.questions import dashboard_of
    from launcher.errors import Mistake, RequestError
    from launcher.plan.plan_file import read_plan
    from launcher.recipe.load import load_recipe
    from launcher.rundir.layout import RunDirectory
    from launcher.rundir.rows import logged_metrics

    if not path.is_dir():
        loaded = load_recipe(path, overrides)
        _refuse_script(loaded.recipe, loaded.marks)
        return dashboard_of(loaded.recipe)
    run = RunDirectory(path)
    if not run.plan.is_file():
        raise RequestError([Mistake("", "this is not the directory of a run: it has no plan.json", where=str(path))])
    if overrides:
        raise RequestError([Mistake(overrides[0], "a run has its recipe already", "Name the recipe, or no keys")])
    of_run = read_plan(run.plan).recipe
    _refuse_script(of_run, {"script": str(path)})
    return dashboard_of(of_run, logged_metrics(run.metrics))


def _refuse_script(recipe: Recipe, marks: dict[str, str]) -> None:
    """Make sure that the launcher's own loop logs what the panels show.

    Args:
        recipe: the recipe.
        marks: where its keys stand.

    Raises:
        RequestError: it runs a script.
    """
    from launcher.errors import Mistake, RequestError

    if recipe.script is not None:
        mistake = Mistake("script", "what your own script logs is not known here", "Make its dashboard yourself")
        raise RequestError([mistake]).located(marks)


def _made(what: str, wanted: Dashboard) -> str:
    """What the process prints that has W&B in it; it has said why where it fails."""
    import os
    import subprocess
    import sys

    from launcher.linux import end_with_parent

    done = subprocess.run(
        [sys.executable, "-m", "launcher.worker.dashboard", what],
        input=wanted.model_dump_json(),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"},
        preexec_fn=end_with_parent,
        check=False,
    )
    if done.returncode:
        raise typer.Exit(done.returncode if done.returncode > 0 else 128 - done.returncode)
    return done.stdout.strip()
