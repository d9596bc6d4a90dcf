"""A directory for a new run."""

from __future__ import annotations

import os
import re
import shutil
from datetime import datetime
from itertools import count
from pathlib import Path

from launcher.errors import Mistake, RequestError, RunDirectoryUnusableError
from launcher.rundir.checkpoints import has_any
from launcher.rundir.layout import RunDirectory, write_atomically

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def fresh_id(name: str, now: datetime) -> str:
    """An id made of the recipe's name and the time."""
    return f"{name}-{now:%Y%m%d-%H%M%S}"


def is_run_id(text: str) -> bool:
    """Whether a folder of runs can have an entry of that name."""
    return _RUN_ID.fullmatch(text) is not None


def shared_id(run_id: str | None) -> str:
    """The id that was given for a run of several machines, each of which is told it.

    Raises:
        RequestError: none was given.
    """
    if run_id is None:
        raise RequestError([Mistake("--run-id", "is missing: all machines must mean the same run", "Choose one")])
    return run_id


def create_run_directory(runs: Path, run_id: str, *, fresh: bool) -> RunDirectory:
    """Make the directory of a run.

    Args:
        runs: the folder of all runs; made if it is not there.
        run_id: name of the run's own folder.
        fresh: whether the id was made up, so that another may be taken if there is such a run.

    Raises:
        RunDirectoryUnusableError: the id is no name, or the folder cannot be made.
    """
    refuse_no_name(run_id)
    for attempt in count(1):
        path = runs / (run_id if attempt == 1 else f"{run_id}-{attempt}")
        try:
            path.mkdir(parents=True, exist_ok=not fresh)
            break
        except FileExistsError:
            if not fresh:
                cure = "Move it, or choose another name, or --runs."
                raise RunDirectoryUnusableError(f"{path} is a file. {cure}") from None
        except OSError as error:
            raise RunDirectoryUnusableError(f"{path} cannot be made: {os.strerror(error.errno or 0)}.") from None
    return RunDirectory(path.absolute())


def refuse_no_name(run_id: str) -> None:
    """Refuse an id that is no name of a folder.

    Raises:
        RunDirectoryUnusableError: it is none.
    """
    if not is_run_id(run_id):
        raise RunDirectoryUnusableError(
            f"--run-id {run_id!r}: use up to 128 letters, digits, dots, dashes or underscores, a letter or digit first."
        )


def has_begun(run: RunDirectory) -> bool:
    """Whether a directory holds a run, or its checkpoints: who deletes the files of a run may leave its folders.

    Raises:
        RunDirectoryUnusableError: that cannot be seen now.
    """
    return run.status.exists() or run.metrics.exists() or has_any(run)


def was_begun_by(run: RunDirectory, job: str | None) -> bool:
    """Whether a run was begun by a job, or by whatever it was where none is meant.

    Raises:
        RunDirectoryUnusableError: that cannot be seen now.
    """
    if job is None:
        return True
    try:
        return run.begun_by.read_text(encoding="utf-8").strip() == job
    except (FileNotFoundError, UnicodeDecodeError):
        return False
    except OSError as error:
        raise RunDirectoryUnusableError(f"{run.begun_by} cannot be read: {error.strerror}.") from None


def begin_new(run: RunDirectory, job: str | None = None) -> None:
    """Let a run begin in a directory that is held, and keep another one from being overwritten.

    What is left of a run that was deleted is removed: the new one is another run, to W&B too.

    Args:
        run: its directory.
        job: what the job is called that begins it, where it is to go on with no other run.

    Raises:
        RunDirectoryUnusableError: the directory holds a run already, or cannot be made ready.
    """
    if has_begun(run):
        raise RunDirectoryUnusableError(
            f"{run.path} holds a run already. Go on with it by --resume auto, or choose another --run-id."
        )
    try:
        for path in (run.identity, run.wandb_id, run.data, run.past, run.forked, run.begun_by):
            path.unlink(missing_ok=True)
        if job is not None:
            write_atomically(run.begun_by, f"{job}\n", lasting=True)
        shutil.rmtree(run.before_fork, ignore_errors=True)
    except OSError as error:
        raise RunDirectoryUnusableError(f"{run.path} cannot be made ready: {error.strerror}.") from None
