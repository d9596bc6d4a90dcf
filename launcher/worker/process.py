"""A worker as a process: where its output goes, and how it is asked to stop."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from pathlib import Path


def log_to(path: Path) -> None:
    """Send everything that this process prints, from C++ too, to a file; a crash leaves its stack there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # they are text streams here
    faulthandler.enable()


class StopFlag:
    """Set by a signal that asks to stop: the run ends after the update that it is in.

    The handler is inherited by nothing: data-loading workers are started with their own.
    """

    def __init__(self) -> None:
        self._set = False

    def listen(self) -> None:
        """Take SIGTERM, SIGINT and SIGHUP from now on."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def is_set(self) -> bool:
        """Whether this rank was asked to stop."""
        return self._set

    def _on_signal(self, number: int, frame: object) -> None:
        self._set = True
