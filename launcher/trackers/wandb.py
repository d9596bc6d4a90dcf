"""Weights & Biases: the rows of a run on its dashboard, or in files that can be sent there later."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.plan.planner import Plan
from launcher.rundir.layout import RunDirectory
from launcher.trackers.background import InBackground
from launcher.trackers.base import Tracker
from launcher.trackers.bests import Bests
from launcher.trackers.jsonl import read_rows
from launcher.trackers.wandb_session import (
    TROUBLE,
    X_AXIS,
    Mode,
    Patience,
    StartedRun,
    brief,
    key_problem,
    kill_processes,
    set_up,
    start_run,
    tear_down,
)

WHILE_TRAINING = Patience()
_TO_SAY_WHY = 5.0  # seconds

Say = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """Where the rows go, and why: `reason` is what follows "because"."""

    mode: Mode
    reason: str


def make_wandb_tracker(plan: Plan, run_dir: Path, say: Say) -> Tracker | None:
    """Start the W&B run that a plan asks for, or go on with it. It never asks for input, waits seconds, never raises.

    Rows that metrics.jsonl has and W&B has not are handed over before any other.

    Args:
        plan: the plan of the run.
        run_dir: its directory; W&B writes to `wandb/` in it, and the W&B run takes its name.
        say: takes each sentence that the user should read.

    Returns:
        The tracker, or None where W&B is disabled or could not start.
    """
    wanted = plan.recipe.tracking.wandb.mode
    if wanted == "disabled":
        return None
    try:
        choice = choose_mode(wanted, set_up(WHILE_TRAINING), lambda: key_problem(WHILE_TRAINING))
        if choice.mode == "disabled":
            say(f"W&B: disabled, because {choice.reason}.")
            return None
        run = RunDirectory(run_dir)
        started, choice = _start(plan, run, choice)
        url = started.handle.url
        say(f"W&B: {choice.mode}{f' at {url}' if url else ''}, because {choice.reason}.")
        tracker = WandbTracker(started, run, say)
        tracker.catch_up()
        # W&B itself ends by an error within the patience for it, which says more than that it was given up.
        return InBackground(tracker, WHILE_TRAINING.finish + _TO_SAY_WHY, tracker.give_up)
    except TROUBLE as error:  # whatever is wrong with W&B, the training goes on
        say(f"W&B: not used, because it could not start: {brief(error)}.")
        return None


def choose_mode(wanted: str, ambient: str, key_problem: Callable[[], str | None]) -> Choice:
    """Decide between online and offline.

    Args:
        wanted: the recipe's `tracking.wandb.mode`.
        ambient: the mode in W&B's own settings, from WANDB_MODE or a settings file; it counts for `auto` only.
        key_problem: says what keeps a key from being used, or None; asked only where it matters.
    """
    if wanted == "offline":
        return Choice("offline", "the recipe says so")
    if wanted == "auto" and ambient == "disabled":
        return Choice("disabled", "your W&B settings say so")
    if wanted == "auto" and ambient in ("offline", "dryrun"):
        return Choice("offline", "your W&B settings say so")
    problem = key_problem()
    if problem is not None:
        return Choice("offline", problem if wanted == "auto" else f"{problem}, though the recipe says online")
    return Choice("online", "a key is configured" if wanted == "auto" else "the recipe says so")


class WandbTracker:
    """Hands each row to a W&B run once. What fails is said once, and nothing is logged from then on.

    Args:
        started: the W&B run.
        run: the directory of the run.
        say: takes each sentence that the user should read.

    Attributes:
        handed_over: rows that W&B was given.
        failed: whether it has stopped.
    """

    def __init__(self, started: StartedRun, run: RunDirectory, say: Say) -> None:
        self._handle = started.handle
        self._last = started.last_update
        self._run = run
        self._say = say
        self._bests = Bests()
        self.handed_over = 0
        self.failed = False

    def catch_up(self) -> None:
        """Log the rows of metrics.jsonl that W&B has not."""
        if not self._run.metrics.exists():
            return
        try:
            for row in read_rows(self._run.metrics, self._say):
                self.log(row)
        except (OSError, ValueError) as error:
            self._fail(error)

    def log(self, row: Mapping[str, float]) -> None:
        """Log one row, as it is; an update that was made again has the numbers that W&B has of it."""
        update = int(row[X_AXIS])
        self._bests.take(row)
        if self.failed or update <= self._last:
            return
        try:
            self._handle.log(dict(row), step=update, commit=True)
        except TROUBLE as error:
            self._fail(error)
            return
        self._last = update
        self.handed_over += 1

    def give_up(self, error: BaseException) -> None:
        """Log no more, and kill W&B's processes: whoever waits for them waits no longer. Any thread may ask for it."""
        self._fail(error)
        kill_processes()

    def finish(self, succeeded: bool) -> None:
        """End the W&B run as finished or failed, and say where its rows are."""
        url: str | None = self._handle.url
        try:
            if not self.failed:
                self._handle.summary.update(self._bests.found())  # W&B forgets the best when a run goes on
            self._handle.finish(exit_code=0 if succeeded else 1)
        except TROUBLE as error:
            self._fail(error)
            tear_down()  # or W&B tries once more when the process ends, and prints a traceback
        if self.failed:
            return
        if url:
            self._say(f"W&B: the run is at {url}")
        else:
            self._say(f"W&B: to upload the run later: {self._sync}")

    @property
    def _sync(self) -> str:
        """W&B's own sync would let each launch of a resumed run overwrite the rows of those before."""
        return f"launcher sync {shlex.quote(str(self._run.path))}"

    def _fail(self, error: BaseException) -> None:
        told, self.failed = self.failed, True
        if not told:
            self._say(f"W&B: stopped, because {brief(error)}; metrics.jsonl has every row. To upload it: {self._sync}")


def _start(plan: Plan, run: RunDirectory, choice: Choice) -> tuple[StartedRun, Choice]:
    """Start the run as chosen, or offline where the server cannot be used: the run, and the choice that holds."""
    try:
        return start_run(plan, run, choice.mode, WHILE_TRAINING), choice
    except TROUBLE as error:
        if choice.mode == "offline":
            raise
        tear_down()  # the attempt holds the id of the run for as long as its process lives
        choice = Choice("offline", f"the server could not be used: {brief(error)}")
        set_up(WHILE_TRAINING)
        return start_run(plan, run, "offline", WHILE_TRAINING), choice
