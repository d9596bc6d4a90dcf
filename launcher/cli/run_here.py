"""A run on this machine from its first line to its last, as the user sees it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from signal import Signals as Signal
from time import monotonic

from rich.console import Console
from rich.text import Text

from launcher.cli.display import Display, bar_display, line_display
from launcher.cli.output import lasting_console
from launcher.cli.request import Request
from launcher.cli.watched import say_cause, watched
from launcher.errors import ExitCode, LauncherError
from launcher.launch.build import build_launch, numbered
from launcher.plan.noise import BatchNoise
from launcher.plan.planner import Plan
from launcher.report.write import write_report
from launcher.rundir.checkpoints import newest_update
from launcher.rundir.generation import read_generation, take_over
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import held
from launcher.runners.fork import kept_unless_begun, settle_fork
from launcher.runners.new_run import begin_new, create_run_directory, fresh_id, has_begun, was_begun_by
from launcher.runners.outcome import Outcome, cut_short, not_begun
from launcher.runners.restarts import RestartBudget
from launcher.runners.resume import (
    ending_on_record,
    go_on,
    has_changed,
    is_done,
    take_up,
    unfinished_run,
    with_history,
)
from launcher.runners.supervise import Signals, listening
from launcher.runners.watch import Limits
from launcher.words import duration, least_or_most, plural


@dataclass(frozen=True)
class RunChoice:
    """Which run a command is about.

    Attributes:
        runs: the folder of all runs.
        run_id: name of the run's folder, or None for a fresh one.
        resume: go on with the run of that id, or with the newest of the recipe that is not done, if there is one.
        fork: go on also if the recipe has changed.
        patient: whether a second signal is to change nothing.
        job: what the job is called that may go on with a run that it has begun itself, and with no other.
    """

    runs: Path
    run_id: str | None
    resume: bool = False
    fork: bool = False
    patient: bool = False
    job: str | None = None

    def goes_on(self, run: RunDirectory) -> bool:
        """Whether the command is to go on with a run that has begun."""
        return self.resume and was_begun_by(run, self.job)


def run_here(request: Request, choice: RunChoice) -> int:
    """Run a request in a directory of its own; the exit code.

    Args:
        request: the recipe with its plan.
        choice: which run it is.

    Raises:
        RunDirectoryHeldError: another launch writes there.
        RunDirectoryUnusableError: the directory cannot be made, or holds a run already and that is not wanted.
        RequestError: the recipe is not the one that the run was begun with.
        NoCheckpointError: the run cannot go on.
    """
    plan = request.plan
    run = chosen_directory(choice, plan.recipe.name)
    with listening(choice.patient) as signals, held(run):
        console = lasting_console(soft_wrap=True)
        begun = has_begun(run)
        if begun:
            settle_fork(run)
        resumed = begun and choice.goes_on(run)
        if resumed and is_done(run) and not has_changed(run, plan, fork=choice.fork):
            console.print(f"done: {shown_path(run.path)} has gone to its end")
            return ExitCode.DONE
        if not resumed:
            begin_new(run, choice.job)
        if resumed and not choice.fork:
            plan = with_history(plan, run)
        announce(console, plan, run)
        with ending_on_record(run), kept_unless_begun(run, fork=resumed and choice.fork):
            if resumed:
                update = take_up(run, plan, fork=choice.fork, say=console.print)
                plan = with_history(plan, run)  # of a fork, from now on
                console.print(f"resumed after update {update:,}" if update else "begun again: it has no checkpoint yet")
            else:
                take_over(run)
                update = 0
            began = monotonic()
            outcome, display = _to_its_end(replace(request, plan=plan), run, signals, console, update)
        conclude(console, plan, run, outcome, display, monotonic() - began)
    return outcome.exit_code


def chosen_directory(choice: RunChoice, recipe_name: str) -> RunDirectory:
    """The directory of the run that a command is about, which is there now."""
    run_id = choice.run_id
    if run_id is None and choice.resume:
        run_id = unfinished_run(choice.runs, recipe_name)
    name = fresh_id(recipe_name, datetime.now()) if run_id is None else run_id
    return create_run_directory(choice.runs, name, fresh=run_id is None)


def _to_its_end(
    request: Request, run: RunDirectory, signals: Signals, console: Console, update: int
) -> tuple[Outcome, Display]:
    """Run after an update, and again after the last checkpoint when a rank fails, while the recipe allows it.

    Not once a signal has come.
    """
    plan = request.plan
    spec = build_launch(plan, run, request.machine, os.environ)
    limits = Limits.of(plan.recipe, plan.topology.world_size)
    budget = RestartBudget(plan.recipe.launch.restarts)
    failed: Outcome | None = None
    left: int | None = None
    while True:
        display = bar_display(plan, console) if console.is_terminal else line_display(plan, console)
        try:
            if failed is not None:
                update = go_on(run, plan, console.print)
                console.print(f"going on after update {update:,} (tries left without progress: {left})")
            if signals.received:  # while a checkpoint was verified, say, which may take long
                console.print(f"{Signal(signals.received[0]).name}: ending, before anything was started")
                return not_begun(run), display
            numbered_spec = numbered(spec, read_generation(run), update)
            outcome = watched(numbered_spec, run, display, signals, plan.recipe.launch.grace, limits)
        except OSError as error:
            if failed is None:
                raise
            return cut_short(failed, error, run), display
        left = budget.take(newest_update(run)) if outcome.again else None
        if left is None:
            return outcome, display
        say_cause(outcome)
        failed = outcome


def announce(console: Console, plan: Plan, run: RunDirectory) -> None:
    """Say what will run, where, and what to look out for."""
    announce_world(console, plan)
    for warning in plan.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    console.print(f"run: {shown_path(run.path)}")


def announce_world(console: Console, plan: Plan) -> None:
    """Say how many ranks there are, and what batch they make."""
    machines = f" of {plural(plan.topology.nodes, 'machine')}" if plan.recipe.launch.elastic else ""
    console.print(
        f"{plan.recipe.name}: {plural(plan.topology.world_size, 'rank')}{machines} on {plan.topology.device}, "
        f"effective global batch {effective_batch(plan)}"
    )


def effective_batch(plan: Plan) -> str:
    """The global batch and what it is made of; with a batch schedule, that of its end and where it begins."""
    batch = plan.batch
    if plan.recipe.batch.micro == "auto" and not plan.found:
        return f"{batch.global_:,}, in micro-batches of what fits, at most {plural(batch.micro, 'sample')}"
    steps = least_or_most(batch.micro_steps)
    exactly = batch.micro * sum(batch.micro_steps) == batch.global_
    of = "of" if exactly else "of up to"
    *before, _ = plan.ahead
    grown = f"from {before[0].global_:,} in {plural(len(before), 'stage')} to " if before else ""
    return f"{grown}{batch.global_:,} = {batch.world_size} × {steps} micro-steps {of} {batch.micro:,} samples"


def conclude(
    console: Console, plan: Plan, run: RunDirectory, outcome: Outcome, display: Display, seconds: float
) -> None:
    """Say how a run ended, and write its report."""
    plan = with_history(plan, run)  # what the workers have found by now
    status = outcome.status
    console.file.flush()
    say_cause(outcome)
    took = f"{status.update:,} updates, {status.samples_seen:,} samples in {duration(seconds)}"
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
