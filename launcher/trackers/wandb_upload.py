"""Brings W&B up to date with the rows of a run that has ended."""

from __future__ import annotations

from launcher.errors import LauncherError
from launcher.plan.planner import Plan
from launcher.rundir.layout import RunDirectory
from launcher.rundir.status import RunStatus
from launcher.trackers.wandb import Say, WandbTracker
from launcher.trackers.wandb_session import TROUBLE, Patience, brief, key_problem, set_up, start_run, tear_down

WHILE_WATCHED = Patience(start=30.0, finish=3600.0)  # somebody waits for it, and can end it


class UploadError(LauncherError):
    """The rows could not be brought to W&B; the message says why."""


def upload(plan: Plan, run: RunDirectory, say: Say) -> None:
    """Hand W&B the rows of metrics.jsonl that its server has not; each update is there once, however often it is done.

    Args:
        plan: the plan of the run.
        run: its directory, which is held.
        say: takes each sentence that the user should read.

    Raises:
        UploadError: W&B or its server cannot be used.
    """
    set_up(WHILE_WATCHED)
    if problem := key_problem(WHILE_WATCHED):
        raise UploadError(f"W&B cannot be used: {problem}.")
    try:
        started = start_run(plan, run, "online", WHILE_WATCHED)
    except TROUBLE as error:  # W&B has no class of its own for all that can be wrong
        tear_down()
        raise UploadError(f"W&B cannot be used: {brief(error)}.") from None
    tracker = WandbTracker(started, run, say)
    tracker.catch_up()
    status = RunStatus.read(run)
    tracker.finish(status is not None and status.state == "done")
    if tracker.failed:
        raise UploadError("W&B may lack rows still: do it again.")
    say(f"W&B: {tracker.handed_over:,} rows uploaded, {started.last_update:,} were there")
