"""A directory for a new run."""

from __future__ import annotations

import os
import re
from datetime import datetime
from itertools import count
from pathlib import Path

from launcher.errors import RunDirectoryUnusableError
from launcher.rundir.layout import RunDirectory

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def fresh_id(name: str, now: datetime) -> str:
    """An id made of the recipe's name and the time."""
    return f"{name}-{now:%Y%m%d-%H%M%S}"


def create_run_directory(runs: Path, run_id: str, *, fresh: bool) -> RunDirectory:
    """Make the directory of a run.

    Args:
        runs: the folder of all runs; made if it is not there.
        run_id: name of the run's own folder.
        fresh: whether the id was made up, so that another may be taken if there is such a run.

    Raises:
        RunDirectoryUnusableError: the id is no name, or the folder cannot be made.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise RunDirectoryUnusableError(
            f"--run-id {run_id!r}: use up to 128 letters, digits, dots, dashes or underscores, a letter or digit first."
        )
    for attempt in count(1):
        path = runs / (run_id if attempt == 1 else f"{run_id}-{attempt}")
        try:
            path.mkdir(parents=True, exist_ok=not fresh)
            break
        except FileExistsError:
            if not fresh:
                raise RunDirectoryUnusableError(f"{path} is a file. Choose another --runs or --run-id.") from None
        except OSError as error:
            raise RunDirectoryUnusableError(f"{path} cannot be made: {os.strerror(error.errno or 0)}.") from None
    return RunDirectory(path.absolute())


def refuse_used(run: RunDirectory) -> None:
    """Keep a run from being overwritten; to be called while the directory is held.

    Raises:
        RunDirectoryUnusableError: the directory holds a run already.
    """
    if run.status.exists() or run.metrics.exists():
        raise RunDirectoryUnusableError(
            f"{run.path} holds a run already. Go on with it by --resume auto, or choose another --run-id."
        )
