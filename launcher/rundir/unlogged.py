"""The row of an update that is not logged yet: a run was stopped in the evaluation that belongs to it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from launcher.rundir.checkpoints import Checkpoint
from launcher.rundir.identity import marks_in

_UNLOGGED = "unlogged"  # the mark of a checkpoint that has it, as JSON


def mark_of(row: Mapping[str, float] | None) -> dict[str, str]:
    """What a checkpoint carries of the row of its update; nothing where the row is logged.

    Args:
        row: the row, if it is not logged yet.
    """
    return {} if row is None else {_UNLOGGED: json.dumps(dict(row))}


def unlogged_row(checkpoint: Checkpoint) -> dict[str, float] | None:
    """The row of a checkpoint's update, if it is to be logged by who goes on with it."""
    mark = marks_in(checkpoint).get(_UNLOGGED)
    return None if mark is None else dict(json.loads(mark))


def last_logged(checkpoint: Checkpoint) -> int:
    """The last update whose row was logged when a checkpoint was written."""
    return checkpoint.update - (unlogged_row(checkpoint) is not None)
