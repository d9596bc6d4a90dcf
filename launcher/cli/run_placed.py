"""A run on a fixed number of machines, each with its place: the first one leads it, the others take part."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic, sleep

from rich.console import Console

from launcher.cli.output import lasting_console
from launcher.cli.request import Request
from launcher.cli.run_elastic import TO_BE_TOLD, Launcher
from launcher.cli.run_here import RunChoice, chosen_directory, conclude, shown_path
from launcher.errors import ExitCode, LauncherError, Mistake, RequestError, RunDirectoryHeldError
from launcher.rundir.checkpoints import newest_update
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import held, is_held
from launcher.runners.new_run import shared_id
from launcher.runners.nodes import Node, nodes_of, present
from launcher.runners.place import Place
from launcher.runners.rounds import Round
from launcher.runners.supervise import Signals, listening
from launcher.runners.together import LOOK

_NO_PLAN = -1  # the number of a round that tells no more than that the run is led


class LeaderGoneError(LauncherError):
    """The launcher that leads the run has not come, or has gone without a word."""


def run_placed(request: Request, choice: RunChoice, place: Place) -> int:
    """Lead a run, or take part in it; the exit code.

    It is the run's where this launcher leads or was started by hand, and else 0: the job has that of who leads.

    Args:
        request: the recipe with its plan.
        choice: which run it is, named by its id.
        place: of this machine.

    Raises:
        RequestError: the run has no name that all machines know, its recipe is not the one that it was begun with or
            not that of who leads, or another machine has this place.
        RunDirectoryHeldError: another launch writes there.
        RunDirectoryUnusableError: the directory cannot be made, or holds a run already and that is not wanted.
        NoCheckpointError: the run cannot go on.
        HostUnknownError: nobody knows the name of the first machine.
        LeaderGoneError: this launcher takes part, and there is none that leads.
    """
    run_id, patience = shared_id(choice.run_id), request.plan.recipe.parallel.timeout
    console = lasting_console(soft_wrap=True)
    with listening(choice.patient) as signals:
        if place.by_hand and not place.reach(patience, signals, console.print):
            return _stopped(RunDirectory(choice.runs / run_id))
        return _run_among(request, choice, place, signals, console)


def _stopped(run: RunDirectory) -> int:
    """The exit code of a launcher that a signal has ended before it took part."""
    return ExitCode.REQUEUE if newest_update(run) else ExitCode.INTERRUPTED


def _run_among(request: Request, choice: RunChoice, place: Place, signals: Signals, console: Console) -> int:
    """Lead the run, or take part in it, once the first machine has a name; the exit code."""
    run = chosen_directory(choice, request.plan.recipe.name)
    told = _Told(run, place)
    quiet = place.rank > 0 and not place.by_hand  # all launchers of a job write into one log
    with present(run, place.launch, place.rank, joined=False) as me:
        _refuse_taken(run, me, place)
        one = Launcher(request, choice, run, me, signals, Console(quiet=True) if quiet else console, place)
        if place.rank == 0:
            return _lead(one, run, place, console)
        code = _take_part(one, told, signals, request, Console(quiet=True) if quiet else console)
        return code if place.by_hand else ExitCode.DONE


def _lead(one: Launcher, run: RunDirectory, place: Place, console: Console) -> int:
    """Hold the run and lead it to its end, which the others are told in any case."""
    code = ExitCode.WORKER
    with held(run):
        began = monotonic()
        try:
            Round(_NO_PLAN, launch=place.launch).publish(run)
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


def _take_part(one: Launcher, told: _Told, signals: Signals, request: Request, console: Console) -> int:
    """Take part in the run of who leads, to its end; the exit code of the run."""
    recipe = request.plan.recipe
    if told.now() is None:
        console.print(f"waiting for the first machine (--node-rank 0) in {shown_path(told.run.path)}")
    if told.wait_for_plan(signals, recipe.parallel.timeout) and told.exit_code() is None:
        one.agree()
        one.follow()
    return told.wait_for_end(signals, recipe.launch.grace + TO_BE_TOLD)


def _refuse_taken(run: RunDirectory, me: Node, place: Place) -> None:
    """Refuse a place that another living launcher of this launch has."""
    for name, state in nodes_of(run).items():
        if name != me.name and (state.launch, state.place) == (place.launch, place.rank):
            wrong = f"{place.rank} is taken by {state.process}"
            raise RequestError([Mistake("--node-rank", wrong, "Give each machine a number of its own")])


class _Told:
    """What the launcher that leads tells the others.

    Launches that were started by hand are called by where they meet, and so were those before: the last word of one
    that has ended is told apart by its being there before.

    Attributes:
        run: the directory of the run.

    Args:
        run: the directory.
        place: of this machine.
    """

    def __init__(self, run: RunDirectory, place: Place) -> None:
        self.run = run
        self._place = place
        self._before = _stamp(run) if place.by_hand else None

    def now(self) -> Round | None:
        """What is told; None while nobody leads this launch."""
        stamp = _stamp(self.run)
        told = Round.read(self.run)
        if told is None or told.launch != self._place.launch:
            return None
        was_there = stamp is not None and stamp == self._before
        stale = was_there and (told.exit_code is not None or not is_held(self.run))
        return None if stale else told

    def exit_code(self) -> int | None:
        """That of the run, once it has ended."""
        told = self.now()
        return None if told is None else told.exit_code

    def wait_for_plan(self, signals: Signals, patience: float) -> bool:
        """Wait until somebody leads the run and its plan is there, or it has ended; whether no signal came first.

        Raises:
            RunDirectoryHeldError: another launch has it.
            LeaderGoneError: nobody came, or who led has gone.
        """
        began = since = monotonic()
        led = False
        while (told := self.now()) is None or (told.number == _NO_PLAN and told.exit_code is None):
            is_led = is_held(self.run)
            if led and not is_led and self.exit_code() is None:
                raise self._gone()
            led = led or (told is not None and is_led)
            if told is not None or not is_led:
                since = monotonic()
            elif monotonic() - since > TO_BE_TOLD:
                called = f" without --rendezvous {self._place.endpoint}" if self._place.by_hand else ""
                wait = "Wait for it, or stop it."
                raise RunDirectoryHeldError(f"{self.run.path} is held by another launch{called}. {wait}")
            if not led and (signals.received or monotonic() - began > patience):
                raise self._missing()
            if signals.received:
                return False
            sleep(LOOK)
        return True

    def wait_for_end(self, signals: Signals, patience: float) -> int:
        """Wait for the word of who leads that the run has ended, which may yet come; its exit code.

        Raises:
            LeaderGoneError: it does not come.
        """
        until = monotonic() + patience
        while is_held(self.run) and self.exit_code() is None and monotonic() < until and len(signals.received) < 2:
            sleep(LOOK)
        code = self.exit_code()
        if code is None:
            raise self._gone()
        return code

    def _missing(self) -> LeaderGoneError:
        shared = f", or {self.run.path.parent} is not the folder that it has" if self._place.by_hand else ""
        return LeaderGoneError(f"The launcher of the first machine has not come{shared}: this one ends.")

    def _gone(self) -> LeaderGoneError:
        return LeaderGoneError("The launcher of the first machine is gone: this one ends.")


def _stamp(run: RunDirectory) -> tuple[int, int] | None:
    """What tells one word of who leads from the next."""
    try:
        found = run.round.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
