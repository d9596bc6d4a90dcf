"""One run directory, one writer."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from launcher.errors import RunDirectoryHeldError, RunDirectoryUnusableError
from launcher.rundir.layout import RunDirectory


@contextmanager
def held(run: RunDirectory, *, shared: bool = False) -> Iterator[int]:
    """Hold a run directory while a launch writes to it; the kernel lets go of it if the launch is killed.

    How others could join a launch that was here before is forgotten.

    Args:
        run: the directory of the run.
        shared: hold it together with others that would share it, too.

    Returns:
        The descriptor of the lock.

    Raises:
        RunDirectoryHeldError: another launch holds it; the message names it.
        RunDirectoryUnusableError: nothing can be written there.
    """
    with _unusable(run):
        descriptor = os.open(run.lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another launch"
            raise RunDirectoryHeldError(
                f"{run.path} is held by {holder}. Wait for it, stop it, or choose another --run-id."
            ) from None
        with _unusable(run):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, this_process().encode(), 0)
            run.round.unlink(missing_ok=True)
        yield descriptor
    finally:
        os.close(descriptor)


def is_held(run: RunDirectory) -> bool:
    """Whether a launch holds a run directory."""
    with suppress(FileNotFoundError), run.lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def this_process() -> str:
    """This process, as people on other machines would look for it."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def _unusable(run: RunDirectory) -> Iterator[None]:
    """Say of trouble with the disk whose it is."""
    try:
        yield
    except OSError as error:
        raise RunDirectoryUnusableError(f"{run.path} cannot be written: {error.strerror}.") from None
