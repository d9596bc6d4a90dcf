"""An elastic run on this machine as the user sees it: this launcher leads it, or takes part and leads when it must."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic, sleep

from rich.console import Console
from rich.text import Text

from launcher.cli.display import Display, bar_display, line_display
from launcher.cli.output import lasting_console
from launcher.cli.request import Request
from launcher.cli.run_here import RunChoice, announce_world, chosen_directory, conclude, shown_path
from launcher.cli.watched import say_cause
from launcher.errors import ExitCode, LauncherError, Mistake, RequestError, RunDirectoryHeldError
from launcher.launch.build import build_launch, numbered
from launcher.launch.spec import LaunchSpec
from launcher.plan.changes import changes
from launcher.plan.plan_file import read_plan
from launcher.plan.planner import Plan, plan_again
from launcher.recipe.node_range import NodeRange
from launcher.rundir.checkpoints import newest_update
from launcher.rundir.generation import read_generation, take_over
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.rundir.lock import held, is_held
from launcher.rundir.status import RunStatus
from launcher.runners.address import free_port, own_address
from launcher.runners.follower import Follower
from launcher.runners.fork import kept_unless_begun, settle_fork
from launcher.runners.local import LocalRunner
from launcher.runners.new_run import begin_new, has_begun
from launcher.runners.nodes import Node, present
from launcher.runners.outcome import Outcome, cut_short, machine_lost
from launcher.runners.place import Place, meeting_at
from launcher.runners.restarts import RestartBudget
from launcher.runners.resume import ending_on_record, go_on, has_changed, is_done, take_up, with_history
from launcher.runners.rounds import Round
from launcher.runners.supervise import Signals, listening, supervise
from launcher.runners.together import LOOK, SharedRun, Together
from launcher.runners.watch import Limits, Watch

TO_BE_TOLD = 10.0  # seconds in which who holds the directory says whether others may join


def run_elastic(request: Request, choice: RunChoice) -> int:
    """Lead an elastic run, or take part in it; the exit code.

    Who holds the run's directory leads. The others wait for the directory too, so that one of them leads on when the
    leader is gone.

    Args:
        request: the recipe with its plan.
        choice: which run it is.

    Raises:
        RunDirectoryHeldError: a launch that is not elastic writes there.
        RunDirectoryUnusableError: the directory cannot be made, or holds a run already and that is not wanted.
        RequestError: the recipe is not the one that the run was begun with.
        NoCheckpointError: the run cannot go on.
        TooFewMachinesError: not enough machines are there.
    """
    run = chosen_directory(choice, request.plan.recipe.name)
    console = lasting_console(soft_wrap=True)
    with listening() as signals, present(run, joined=False) as me:
        one = Launcher(request, choice, run, me, signals, console)
        joined = False
        while True:
            try:
                with held(run):
                    began = monotonic()
                    ended = one.lead(taken_over=joined)
            except RunDirectoryHeldError as refused:
                if not joined:
                    joined = one.joins(refused)
                code = one.follow() if joined else None
                if code is not None:
                    return code
                continue
            if ended.display is not None:
                conclude(console, ended.plan, run, ended.outcome, ended.display, monotonic() - began)
            return ended.outcome.exit_code


@dataclass(frozen=True)
class Ended:
    """The end of what this launcher led: of the run, or of its part in it."""

    outcome: Outcome
    plan: Plan
    display: Display | None = None


class Launcher:
    """This launcher, which leads the run of several machines or takes part in it.

    Args:
        request: the recipe with its plan.
        choice: which run it is.
        run: its directory.
        me: this launcher among the others.
        signals: what came for it.
        console: where it says what happens.
        place: of this machine, where each has one.
    """

    def __init__(
        self,
        request: Request,
        choice: RunChoice,
        run: RunDirectory,
        me: Node,
        signals: Signals,
        console: Console,
        place: Place | None = None,
    ) -> None:
        self._request = request
        self._choice = choice
        self._run = run
        self._me = me
        self._signals = signals
        self._place = place
        self._console = console
        self._failed: Ended | None = None  # the last round that was to be followed by another
        self._recipe = request.plan.recipe
        self._launch = request.plan.recipe.launch
        grace, heartbeat = self._launch.grace, self._recipe.guard.heartbeat
        self._follower = Follower(run, me, signals, self._spec_to_follow, grace, heartbeat)

    def lead(self, taken_over: bool) -> Ended:
        """Lead the run, whose directory is held, until it ends or a signal ends this launcher."""
        run, plan, say = self._run, self._request.plan, self._console.print
        begun = has_begun(run)
        if begun and not taken_over:
            settle_fork(run)
        resumed = taken_over or (begun and self._choice.goes_on(run))
        fork = self._choice.fork
        if resumed and is_done(run) and (taken_over or not has_changed(run, plan, fork=fork)):
            say(f"done: {shown_path(run.path)} has gone to its end")
            return Ended(Outcome(RunStatus("done", exit_code=ExitCode.DONE)), plan)
        if not resumed:
            begin_new(run, self._choice.job)
        if taken_over and self._signals.received:
            return self._left(plan)
        for warning in plan.warnings:
            say(Text(f"warning: {warning}", style="yellow"))
        if taken_over:
            say("the launcher that led the run is gone: this one leads it now")
        say(f"run: {shown_path(run.path)}")
        with ending_on_record(run), kept_unless_begun(run, fork=resumed and fork and not taken_over):
            update = 0
            if resumed:
                update = go_on(run, plan, say) if taken_over else take_up(run, plan, fork=fork, say=say)
                say(f"resumed after update {update:,}" if update else "begun again: it has no checkpoint yet")
                plan = with_history(plan, run)
            write_atomically(run.plan, plan.to_json() + "\n", lasting=True)
            try:
                return self._rounds(update, taken_over=resumed)
            except LauncherError as error:  # no other launcher would fare better
                Round(read_generation(run), exit_code=int(error.exit_code), launch=self._me.launch).publish(run)
                raise
            except OSError as error:
                if self._failed is None:
                    raise
                return self._for_all(replace(self._failed, outcome=cut_short(self._failed.outcome, error, run)))

    def joins(self, refused: RunDirectoryHeldError) -> bool:
        """Whether this launcher takes part in the run of who holds the directory; False when that has ended by now.

        Raises:
            RunDirectoryHeldError: it is no elastic run.
            RequestError: it is one of another recipe.
            RunDirectoryUnusableError: its plan cannot be read.
        """
        deadline = monotonic() + TO_BE_TOLD
        while (told := Round.read(self._run)) is None or told.exit_code is not None:
            if not is_held(self._run):
                return False
            if monotonic() > deadline:
                raise refused
            sleep(LOOK)
        self.agree()
        return True

    def agree(self) -> None:
        """Take part, once this launcher's recipe was held against that of who leads.

        Raises:
            RequestError: it is another one.
            RunDirectoryUnusableError: the plan of who leads cannot be read.
        """
        begun = read_plan(self._run.plan)
        mine = self._request.plan
        mistakes = list(changes(begun, mine))
        for key, theirs, ours in (
            ("launch.nodes", begun.recipe.launch.nodes, self._launch.nodes),
            ("launch.nproc_per_node", begun.topology.nproc_per_node, mine.topology.nproc_per_node),
            ("launch.device", begun.topology.device, mine.topology.device),
        ):
            if theirs != ours:
                mistakes.append(Mistake(key, f"the run has {theirs}, not {ours}", "All of its machines have the same"))
        if mistakes:
            raise RequestError(mistakes).located(self._request.loaded.marks)
        self._me.joins()
        self._console.print(f"joined: {shown_path(self._run.path)}, which another launcher leads")

    def follow(self) -> int | None:
        """Take part while another launcher leads; the exit code, or None when this one is to lead."""
        code = self._follower.follow()
        if self._signals.received:
            ended = self._left(self._request.plan)
            self._console.print(f"{ended.outcome.status.state}: this machine takes no part any more")
            return ended.outcome.exit_code
        if code is not None:
            status = RunStatus.read(self._run)
            self._console.print(f"{status.state if status else 'ended'}: {shown_path(self._run.path)}")
        return code

    def _rounds(self, update: int, *, taken_over: bool) -> Ended:
        """Round after round, each with the machines that are there, until the run ends or this launcher has to.

        Args:
            update: the update that the run goes on after.
            taken_over: whether the run has been taken over for the first of them, as it is where it was taken up.
        """
        run, say = self._run, self._console.print
        together = Together(run, self._me, self._launch.machines)
        budget = RestartBudget(self._launch.restarts)
        while True:
            Round(read_generation(run), launch=self._me.launch).publish(run)
            if not together.gathered(self._signals, self._recipe.parallel.timeout, say):
                return self._left(self._request.plan)
            number = read_generation(run) if taken_over else take_over(run)
            taken_over = True  # by `take_up`, for the next
            meets = (self._place.endpoint if self._place else "") or f"{own_address()}:{free_port()}"
            round_ = Round(number, meets, together.round, after=update, launch=self._me.launch)
            ended, part = self._round(round_, together)
            outcome, lost = ended.outcome, part.lost
            if self._signals.received:
                return ended
            if outcome.status.state == "done":
                return self._for_all(ended)
            if lost and not self._launch.elastic:
                return self._for_all(replace(ended, outcome=machine_lost(outcome, lost, run)))
            if lost:
                say(f"lost: {', '.join(lost)}")
            if part.leaving:
                say(f"told to stop: {', '.join(part.leaving)}")
            left = self._tries_left(outcome, bool(lost), budget)
            if left is None:
                return self._for_all(ended)
            if not lost:
                say_cause(outcome)
            self._failed = ended
            update = go_on(run, self._request.plan, say)
            tries = f" (tries left without progress: {left})" if lost or outcome.again else ""
            say(f"going on after update {update:,}{tries}")

    def _tries_left(self, outcome: Outcome, lost: bool, budget: RestartBudget) -> int | None:
        """How many are left with another round; None where there is to be none."""
        if lost:
            return budget.take(newest_update(self._run), from_start=True)
        if outcome.again:
            return budget.take(newest_update(self._run))
        stopped = outcome.status.state in ("preempted", "interrupted")
        # Machines of elastic runs come and go: that is no try.
        return self._launch.restarts if stopped and self._launch.elastic else None

    def _round(self, round_: Round, together: Together) -> tuple[Ended, SharedRun]:
        """One round, to its end; what was seen of the other launchers in it, too."""
        run, grace = self._run, self._launch.grace
        plan = self._plan_for(round_)
        announce_world(self._console, plan)
        spec = self._spec(round_, plan, leads=True)
        watch = Watch(run, Limits.of(self._recipe, plan.topology.world_size), self._me.name)
        handle = SharedRun(LocalRunner().start(spec, run), run, round_.number, together, grace, self._console.print)
        display = (bar_display if self._console.is_terminal else line_display)(plan, self._console)
        round_.publish(run)
        with display:
            outcome = supervise(handle, run, display, self._signals, grace, watch, together.changed)
        return Ended(outcome, plan, display), handle

    def _for_all(self, ended: Ended) -> Ended:
        """The end of the run: the other launchers end with its exit code."""
        with suppress(OSError):  # the run has ended as it has: what others cannot be told does not change that
            code = int(ended.outcome.exit_code)
            Round(read_generation(self._run), exit_code=code, launch=self._me.launch).publish(self._run)
        return ended

    def _left(self, plan: Plan) -> Ended:
        """The end of this launcher between two rounds, or where another one leads."""
        update = newest_update(self._run)
        if update:
            return Ended(Outcome(RunStatus("preempted", update, exit_code=ExitCode.REQUEUE)), plan)
        return Ended(Outcome(RunStatus("interrupted", exit_code=ExitCode.INTERRUPTED)), plan)

    def _plan_for(self, round_: Round) -> Plan:
        plan = with_history(self._request.plan, self._run)
        return plan_again(plan, plan.topology.with_nodes(len(round_.nodes)))

    def _spec_to_follow(self, round_: Round) -> LaunchSpec:
        spec = self._spec(round_, self._plan_for(round_), leads=False)
        return replace(spec, files={})  # who leads has written them

    def _spec(self, round_: Round, plan: Plan, *, leads: bool) -> LaunchSpec:
        name, machines = round_.meeting_of(self._run), NodeRange(self._launch.machines.least, len(round_.nodes))
        meeting = meeting_at(round_.endpoint, name, machines, leads=leads, place=self._place, node=self._me.name)
        spec = build_launch(plan, self._run, self._request.machine, os.environ, meeting=meeting)
        return numbered(spec, round_.number, round_.after)
