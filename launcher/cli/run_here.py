"""A run on this machine from its first line to its last, as the user sees it."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from launcher.cli.display import Display, bar_display, line_display
from launcher.cli.output import lasting_console
from launcher.cli.request import Request
from launcher.cli.watched import say_cause, watched
from launcher.errors import ExitCode, LauncherError
from launcher.launch.build import build_launch
from launcher.plan.noise import BatchNoise
from launcher.plan.planner import Plan
from launcher.report.write import write_report
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import held
from launcher.runners.new_run import create_run_directory, fresh_id, refuse_used
from launcher.runners.outcome import Outcome
from launcher.words import duration, least_or_most, plural


def run_here(request: Request, runs: Path, run_id: str | None) -> int:
    """Run a request in a directory of its own; the exit code.

    Args:
        request: the recipe with its plan.
        runs: the folder of all runs.
        run_id: name of the run's folder, or None for a fresh one.

    Raises:
        RunDirectoryHeldError: another launch writes there.
        RunDirectoryUnusableError: the directory cannot be made, or holds a run already.
    """
    plan = request.plan
    name = fresh_id(plan.recipe.name, datetime.now()) if run_id is None else run_id
    run = create_run_directory(runs, name, fresh=run_id is None)
    with held(run):
        refuse_used(run)
        console = lasting_console(soft_wrap=True)
        _announce(console, plan, run)
        spec = build_launch(plan, run, request.machine, os.environ)
        display = bar_display(plan, console) if console.is_terminal else line_display(plan, console)
        outcome = watched(spec, run, display)
        _conclude(console, plan, run, outcome, display)
    return outcome.exit_code


def _announce(console: Console, plan: Plan, run: RunDirectory) -> None:
    console.print(
        f"{plan.recipe.name}: {plural(plan.topology.world_size, 'rank')} on {plan.topology.device}, "
        f"effective global batch {effective_batch(plan)}"
    )
    for warning in plan.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    console.print(f"run: {shown_path(run.path)}")


def effective_batch(plan: Plan) -> str:
    """The global batch and what it is made of; with a batch schedule, that of its end and where it begins."""
    batch = plan.batch
    steps = least_or_most(batch.micro_steps)
    exactly = batch.micro * sum(batch.micro_steps) == batch.global_
    of = "of" if exactly else "of up to"
    *before, _ = plan.stages
    grown = f"from {before[0].global_:,} in {plural(len(before), 'stage')} to " if before else ""
    return f"{grown}{batch.global_:,} = {batch.world_size} × {steps} micro-steps {of} {batch.micro:,} samples"


def _conclude(console: Console, plan: Plan, run: RunDirectory, outcome: Outcome, display: Display) -> None:
    status = outcome.status
    console.file.flush()
    say_cause(outcome)
    took = f"{status.update:,} updates, {status.samples_seen:,} samples in {duration(display.seconds)}"
    console.print(f"{status.state}: {took}" if status.update else status.state)
    if status.exit_code == ExitCode.DONE and status.update:
        console.print(f"effective global batch: {effective_batch(plan)}")
        for metric, value in display.last_evaluation.items():
            console.print(f"{metric}: {value:.4f}")
        if display.noise_scale is not None:
            noise = BatchNoise(plan.batch.global_, display.noise_scale)
            console.print(f"gradient noise scale: {noise.sentence} (for the next plan: {noise.setting})")
    console.print(f"run: {shown_path(run.path)}")
    try:
        console.print(f"report: {shown_path(write_report(run))}")
    except (OSError, LauncherError) as error:  # the run has ended as it has: a missing page does not change that
        console.print(f"report: could not be written: {error}")


def shown_path(path: Path) -> str:
    """A path as short as it can be: from here where it lies below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
