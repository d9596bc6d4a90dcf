"""Taking up a run where its last checkpoint left it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from launcher.errors import LauncherError, RequestError, RunDirectoryUnusableError
from launcher.plan.changes import changes, recipe_mark, refuse_past_end
from launcher.plan.history import History
from launcher.plan.past import Past
from launcher.plan.planner import Plan, with_past
from launcher.plan.windows import Stage
from launcher.rundir.checkpoints import Checkpoint, Checkpoints
from launcher.rundir.generation import take_over
from launcher.rundir.identity import NEW_WANDB_RUN, refuse_foreign, restore_identity
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.rundir.lineage import is_of_recipe, note_fork, refuse_other_recipe, tells_recipe
from launcher.rundir.rows import cut_rows
from launcher.rundir.status import RunStatus
from launcher.rundir.unlogged import last_logged
from launcher.runners.fork import forget_if_begun

Say = Callable[[str], None]
_MADE_UP = re.compile(r"-(\d{8}-\d{6})(?:-(\d+))?$")  # the end of an id that was not chosen


def unfinished_run(runs: Path, name: str) -> str | None:
    """The id of the newest run of a recipe that is not done, or None.

    A run is as old as the time in its id, or as its last launch where the user has chosen the id.

    Args:
        runs: the folder of all runs.
        name: the recipe's name.
    """
    begun = (path.parent for path in runs.glob("*/status.json"))
    unfinished = [path for path in begun if _recipe_of(RunDirectory(path)) == name and not is_done(RunDirectory(path))]
    return max(unfinished, key=_age_of).name if unfinished else None


def _recipe_of(run: RunDirectory) -> str | None:
    """The name of the recipe that a run was begun with, whatever version of the launcher has written it."""
    try:
        return str(json.loads(run.plan.read_bytes())["recipe"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _age_of(path: Path) -> tuple[str, int]:
    """What orders runs by when they were begun: the local time, and the number of those of one second."""
    made_up = _MADE_UP.search(path.name)
    if made_up:
        return made_up[1], int(made_up[2] or 0)
    return f"{datetime.fromtimestamp((path / 'status.json').stat().st_mtime):%Y%m%d-%H%M%S}", 0


def is_done(run: RunDirectory) -> bool:
    """Whether a run has gone to its end."""
    status = RunStatus.read(run)
    return status is not None and status.state == "done"


def take_up(run: RunDirectory, plan: Plan, *, fork: bool, say: Say) -> int:
    """Make a run's directory ready to go on, as `go_on` does, with a recipe that may be another one.

    With another recipe the run is another one to W&B. A fork takes the data as they are now, and finds anew what fits.

    Args:
        run: the directory of a run, which is held.
        plan: the plan to go on with.
        fork: go on also if the recipe has changed.
        say: takes a sentence that the user should read.

    Returns:
        The update that the run goes on after; 0 from the start.

    Raises:
        RequestError: the recipe has changed, with each change; or the checkpoint is of another run, or past its end.
        NoCheckpointError: there are checkpoints, and none can be used.
    """
    changed = has_changed(run, plan, fork=fork)
    checkpoint = _taken_over(run, plan, say, fork=fork)
    update = checkpoint.update if checkpoint else 0
    if fork:
        recipe = recipe_mark(plan)
        changed = changed or (checkpoint is not None and not is_of_recipe(run, checkpoint, recipe))
        note_fork(run, recipe, update)
    if changed:
        # The rows to come are not those that W&B has of these updates: it gets a run of its own, with all rows.
        write_atomically(run.wandb_id, f"{NEW_WANDB_RUN}\n", lasting=True)
    if fork:
        run.data.unlink(missing_ok=True)
        run.fitting.unlink(missing_ok=True)
    return update


def with_history(plan: Plan, run: RunDirectory) -> Plan:
    """The plan with what the launches before have come to: the micro-batch that fits, and the windows before a fork.

    Args:
        plan: the plan to go on with.
        run: the directory of the run.
    """
    return History.read(run.past, run.fitting, plan.recipe).of(plan)


def go_on(run: RunDirectory, plan: Plan, say: Say) -> int:
    """Take a run over, and make its directory ready to go on after its newest good checkpoint, or from the start.

    It is taken over before anything is looked at: what a launch before may still write then changes nothing more.
    Rows of updates that will be made again are cut from metrics.jsonl, what was recorded of a failure is removed, and
    the logs of the launch before are put aside.

    Args:
        run: the directory of a run, which is held.
        plan: the plan to go on with, which is that of the run.
        say: takes a sentence that the user should read.

    Returns:
        The update that the run goes on after; 0 from the start.

    Raises:
        RequestError: the checkpoint is of another run or recipe, or past the end of the plan.
        NoCheckpointError: there are checkpoints, and none can be used.
    """
    checkpoint = _taken_over(run, plan, say, fork=False)
    return checkpoint.update if checkpoint else 0


def _taken_over(run: RunDirectory, plan: Plan, say: Say, *, fork: bool) -> Checkpoint | None:
    """The checkpoint that a run goes on with, once its directory is ready for that, as `go_on` says."""
    _put_logs_aside(run, take_over(run) - 1)
    forget_if_begun(run)
    checkpoints = Checkpoints(run, say)
    checkpoint = checkpoints.newest()
    if fork:
        _keep_past(run, plan, checkpoint.update if checkpoint else 0)
    if checkpoint:
        refuse_foreign(run, checkpoint)
        if not fork:
            refuse_other_recipe(run, checkpoint, recipe_mark(plan))
        refuse_past_end(with_past(plan, Past.read(run.past).stages), checkpoint.update)
        restore_identity(run, checkpoint)
        checkpoints.leave_behind(checkpoint)
    cut_rows(run.metrics, last_logged(checkpoint) if checkpoint else 0, say)
    for left in (run.failures, run.heartbeats):
        shutil.rmtree(left, ignore_errors=True)
    return checkpoint


def _keep_past(run: RunDirectory, plan: Plan, update: int) -> None:
    """Let a fork to windows of other sizes begin with the next sample, and not where such windows would have led."""
    past: tuple[Stage, ...] = ()
    with suppress(OSError, ValueError):  # where it cannot be read, the samples of the checkpoint tell
        begun = Plan.model_validate_json(run.plan.read_bytes())
        if begun.past or _windows(begun) != _windows(plan):
            past = begun.made(update)
    write_atomically(run.past, Past(stages=past).to_json() + "\n", lasting=True)


def _windows(plan: Plan) -> object:
    """What decides how many samples each window of a run has."""
    batch = plan.recipe.batch
    return plan.batches, batch.schedule, batch.tail


def has_changed(run: RunDirectory, plan: Plan, *, fork: bool) -> bool:
    """Whether a run was begun with another recipe, which only a fork may go on with.

    Args:
        run: the directory of a run.
        plan: the plan to go on with.
        fork: go on also if the recipe has changed.

    Raises:
        RequestError: the recipe has changed, with each change.
        RunDirectoryUnusableError: the plan that the run was begun with cannot be read, and no checkpoint tells of it.
        NoCheckpointError: it has lost its plan, and there are checkpoints of which none can be used.
    """
    try:
        begun = Plan.model_validate_json(run.plan.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _as_checkpoint_tells(run, plan, f"{run.plan} is missing", fork)
    except OSError as error:
        raise RunDirectoryUnusableError(f"{run.plan} cannot be read now: {error.strerror}. Try again.") from None
    except ValueError:
        why = f"{run.plan} is damaged, or was written by another version of launcher"
        return _as_checkpoint_tells(run, plan, why, fork)
    found = list(changes(begun, plan))
    if found and not fork:
        raise RequestError(found)
    return bool(found)


def _to_nobody(sentence: str) -> None:
    """What is wrong with a checkpoint is said when the run is taken up."""


def _as_checkpoint_tells(run: RunDirectory, plan: Plan, why: str, fork: bool) -> bool:
    """The same of a run whose plan cannot be compared: it has lost it, or ended before it was written."""
    checkpoint = Checkpoints(run, _to_nobody).look()
    if checkpoint is None or (tells_recipe(checkpoint) and is_of_recipe(run, checkpoint, recipe_mark(plan))):
        return False
    if fork:
        return True
    raise RunDirectoryUnusableError(
        f"{why}: what the run was begun with cannot be compared. Go on by --fork, or choose another --run-id."
    )


@contextmanager
def ending_on_record(run: RunDirectory) -> Iterator[None]:
    """Let `status.json` not say that a run goes on which cannot be taken up, after a launcher that was killed.

    Args:
        run: the directory of the run, which is held.
    """
    try:
        yield
    except LauncherError as error:
        status = RunStatus.read(run)
        if status is not None and status.state == "running":
            with suppress(OSError):  # what was wrong is told in any case
                replace(status, state="failed", exit_code=int(error.exit_code)).write(run)
        raise


def _put_logs_aside(run: RunDirectory, launch: int) -> None:
    """Give the logs of the launch before its number, so that those of the next one begin anew."""
    for log in [*run.logs.glob("rank_*.log"), *run.logs.glob(run.agent_log.name)]:
        log.rename(log.with_name(f"{log.name}.{launch}"))
