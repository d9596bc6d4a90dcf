"""With which recipe a checkpoint was written: a run goes on with those of its own, and of the runs it is a fork of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import Mistake, RequestError
from launcher.rundir.checkpoints import Checkpoint, newest_update
from launcher.rundir.identity import marks_in
from launcher.rundir.layout import RunDirectory, write_atomically

RECIPE = "recipe"  # the mark of a checkpoint that says it, as a hash of what a run cannot change unnoticed


@dataclass(frozen=True)
class _Noted:
    """A fork: its recipe, updates made before it, and the size of metrics.jsonl by then."""

    recipe: str
    after: int
    bytes: int


def is_of_recipe(run: RunDirectory, checkpoint: Checkpoint, recipe: str) -> bool:
    """Whether a run may go on with a checkpoint: it was written with its recipe, or a fork began with it or later.

    Older checkpoints do not tell their recipe, and are taken.

    Args:
        run: the directory of the run.
        checkpoint: a good checkpoint in it.
        recipe: the hash of the recipe to go on with.
    """
    carried = marks_in(checkpoint).get(RECIPE)
    return carried in (None, recipe) or checkpoint.update <= _forked_after(run, recipe)


def tells_recipe(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint tells its recipe, as all do but older ones."""
    return RECIPE in marks_in(checkpoint)


def refuse_other_recipe(run: RunDirectory, checkpoint: Checkpoint, recipe: str) -> None:
    """Keep a run from going on with what another recipe has learned, where nobody has asked for it.

    Args:
        run: the directory of the run.
        checkpoint: a good checkpoint in it.
        recipe: the hash of the recipe to go on with.

    Raises:
        RequestError: it was written with another recipe.
    """
    if not is_of_recipe(run, checkpoint, recipe):
        wrong = f"{checkpoint.folder.name} was written with another recipe than this one"
        cure = "Set the recipe back, or go on with the change by --resume auto --fork"
        raise RequestError([Mistake("", wrong, cure, where=str(run.path))])


def note_fork(run: RunDirectory, recipe: str, after: int) -> None:
    """Let a fork go on with the checkpoints up to the one that it begins after, also when it is started again.

    Args:
        run: the directory of the run, which is held; its rows are cut.
        recipe: the hash of the recipe of the fork.
        after: updates made by then.

    Raises:
        OSError: it cannot be noted.
    """
    noted = {RECIPE: recipe, "after": after, "bytes": _size(run.metrics)}
    write_atomically(run.forked, json.dumps(noted) + "\n", lasting=True)


def fork_has_begun(run: RunDirectory) -> bool:
    """Whether the fork that was noted last has made an update: there is a row of it, or a checkpoint."""
    noted = _noted(run)
    return noted is not None and (_size(run.metrics) > noted.bytes or newest_update(run) > noted.after)


def _forked_after(run: RunDirectory, recipe: str) -> int:
    """The update that a fork with a recipe began after; -1 where there is no such fork."""
    noted = _noted(run)
    return noted.after if noted is not None and noted.recipe == recipe else -1


def _noted(run: RunDirectory) -> _Noted | None:
    try:
        noted = json.loads(run.forked.read_bytes())
        return _Noted(recipe=str(noted[RECIPE]), after=int(noted["after"]), bytes=int(noted["bytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
