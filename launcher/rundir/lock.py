"""One run directory, one writer."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from launcher.errors import RunDirectoryHeldError, RunDirectoryUnusableError
from launcher.rundir.layout import RunDirectory


@contextmanager
def held(run: RunDirectory) -> Iterator[None]:
    """Hold a run directory while a launch writes to it; the kernel lets go of it if the launch is killed.

    Raises:
        RunDirectoryHeldError: another launch holds it; the message names it.
        RunDirectoryUnusableError: nothing can be written there.
    """
    with _unusable(run):
        descriptor = os.open(run.lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another launch"
            raise RunDirectoryHeldError(
                f"{run.path} is held by {holder}. Wait for it, stop it, or choose another --run-id."
            ) from None
        with _unusable(run):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _unusable(run: RunDirectory) -> Iterator[None]:
    """Say of trouble with the disk whose it is."""
    try:
        yield
    except OSError as error:
        raise RunDirectoryUnusableError(f"{run.path} cannot be written: {error.strerror}.") from None
