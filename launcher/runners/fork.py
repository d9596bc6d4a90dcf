"""What a fork that could not begin leaves of the run: all that it was begun with, as if there had been no fork.

Until the fork has made an update that lies in a folder beside it, so that it survives a launcher that is killed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.errors import RunDirectoryUnusableError
from launcher.rundir.durable import sync_folder, write_durably
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.rundir.lineage import fork_has_begun

_RECORD = "kept.json"  # written last and removed first: without it the folder holds nothing


@contextmanager
def kept_unless_begun(run: RunDirectory, *, fork: bool) -> Iterator[None]:
    """Put back at the end what a run was begun with, if it was to be forked and no update of the fork was made.

    Args:
        run: the directory of the run, which is held.
        fork: whether it is to be forked now.

    Raises:
        RunDirectoryUnusableError: what the run was begun with cannot be kept.
    """
    if fork:
        settle_fork(run)
        _keep(run)
    try:
        yield
    finally:
        with suppress(RunDirectoryUnusableError):  # then the next launch finds it
            settle_fork(run)


def settle_fork(run: RunDirectory) -> None:
    """Put back what a run was begun with, if it was to be forked and no update of the fork was made; else forget it.

    Args:
        run: the directory of the run, which is held.

    Raises:
        RunDirectoryUnusableError: it cannot be put back.
    """
    try:
        absent = _absent(run)
        if absent is not None and not fork_has_begun(run):
            _put_back(run, absent)
        _forget(run)
    except OSError as error:
        raise RunDirectoryUnusableError(
            f"{run.path} was to be forked, and what it was begun with cannot be put back: {error.strerror}."
        ) from None


def forget_if_begun(run: RunDirectory) -> None:
    """A fork that has made an update is the run from now on, also if that update will be made again.

    Args:
        run: the directory of the run, which is held.
    """
    if fork_has_begun(run):
        _forget(run)


def _files(run: RunDirectory) -> tuple[Path, ...]:
    return (run.plan, run.recipe, run.data, run.fitting, run.past, run.wandb_id, run.status, run.forked)


def _keep(run: RunDirectory) -> None:
    absent = []
    try:
        run.before_fork.mkdir()
        for path in _files(run):
            try:
                write_durably(run.before_fork / path.name, [path.read_bytes()])
            except FileNotFoundError:
                absent.append(path.name)
        write_atomically(run.before_fork / _RECORD, json.dumps(absent), lasting=True)
        sync_folder(run.before_fork)
        sync_folder(run.path)
        run.forked.unlink(missing_ok=True)  # of this fork, from now on
    except OSError as error:
        raise RunDirectoryUnusableError(
            f"{run.path} cannot be forked: what it was begun with cannot be kept: {error.strerror}."
        ) from None


def _put_back(run: RunDirectory, absent: Container[str]) -> None:
    for path in _files(run):
        kept = run.before_fork / path.name
        if path.name in absent:
            path.unlink(missing_ok=True)
        elif kept.exists():  # or it is back already: a launcher may have been killed here, too
            kept.replace(path)
    sync_folder(run.path)


def _absent(run: RunDirectory) -> list[str] | None:
    """Names of the files that were not there; None where nothing is kept."""
    try:
        names: list[str] = json.loads((run.before_fork / _RECORD).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return names


def _forget(run: RunDirectory) -> None:
    (run.before_fork / _RECORD).unlink(missing_ok=True)
    shutil.rmtree(run.before_fork, ignore_errors=True)
