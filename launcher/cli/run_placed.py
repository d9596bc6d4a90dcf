"""A run on a fixed number of machines, each with its place: the first one leads it, the others take part."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic, sleep

from rich.console import Console

from launcher.cli.output import lasting_console
from launcher.cli.request import Request
from launcher.cli.run_elastic import TO_BE_TOLD, Launcher
from launcher.cli.run_here import RunChoice, chosen_directory, conclude
from launcher.errors import ExitCode, LauncherError, Mistake, RequestError, RunDirectoryHeldError
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import held, is_held
from launcher.runners.nodes import present
from launcher.runners.place import Place
from launcher.runners.rounds import Round
from launcher.runners.supervise import Signals, listening
from launcher.runners.together import LOOK


class LeaderGoneError(LauncherError):
    """The launcher that leads the run has not come, or has gone without a word."""


def run_placed(request: Request, choice: RunChoice, place: Place) -> int:
    """Lead a run, or take part in it; the exit code, which is the run's where this launcher leads and else 0.

    Args:
        request: the recipe with its plan.
        choice: which run it is, named by its id.
        place: of this machine.

    Raises:
        RequestError: the run has no name that all machines know, or its recipe is not the one it was begun with.
        RunDirectoryHeldError: another launch writes there.
        RunDirectoryUnusableError: the directory cannot be made, or holds a run already and that is not wanted.
        NoCheckpointError: the run cannot go on.
        LeaderGoneError: this launcher takes part, and there is none that leads.
    """
    if choice.run_id is None:
        raise RequestError([Mistake("--run-id", "is missing: all machines must mean the same run", "Choose one")])
    run = chosen_directory(choice, request.plan.recipe.name)
    console = lasting_console(soft_wrap=True)
    with listening(patient=True) as signals, present(run, place.launch) as me:
        one = Launcher(request, choice, run, me, signals, Console(quiet=True) if place.rank else console)
        if place.rank:
            _wait_for_leader(run, place, signals, request.plan.recipe.parallel.timeout)
            one.follow()
            _wait_for_end(run, place, request.plan.recipe.launch.grace)
            return ExitCode.DONE
        code = ExitCode.WORKER
        with held(run):
            began = monotonic()
            try:
                Round(0, launch=place.launch).publish(run)
                ended = one.lead(taken_over=False)
                code = ExitCode(ended.outcome.exit_code)
            except LauncherError as error:
                code = error.exit_code
                raise
            finally:
                with suppress(OSError):  # the run has ended as it has
                    Round(0, exit_code=int(code), launch=place.launch).publish(run)
            if ended.display is not None:
                conclude(console, ended.plan, run, ended.outcome, ended.display, monotonic() - began)
        return code


def _wait_for_leader(run: RunDirectory, place: Place, signals: Signals, patience: float) -> None:
    """Wait until the launcher of the first machine has the run."""
    began = since = monotonic()
    while (told := Round.read(run)) is None or told.launch != place.launch:
        if not is_held(run):
            since = monotonic()
        elif monotonic() - since > TO_BE_TOLD:
            raise RunDirectoryHeldError(f"{run.path} is held by another launch. Wait for it, or stop it.")
        if signals.received or monotonic() - began > patience:
            raise LeaderGoneError("The launcher of the first machine has not come: this one ends.")
        sleep(LOOK)


def _wait_for_end(run: RunDirectory, place: Place, patience: float) -> None:
    """Wait for the word of who leads that the run has ended: it has yet to say so when this part of it has."""
    until = monotonic() + patience + TO_BE_TOLD
    while is_held(run) and monotonic() < until:
        told = Round.read(run)
        if told is not None and told.launch == place.launch and told.exit_code is not None:
            return
        sleep(LOOK)
    told = Round.read(run)
    if told is None or told.launch != place.launch or told.exit_code is None:
        raise LeaderGoneError("The launcher of the first machine is gone: this one ends.")
