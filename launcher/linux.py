"""What Linux can do so that no process outlives its purpose. Elsewhere these functions do nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def end_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies; the wish survives exec."""
    if _LIBC is None:
        return
    parent = os.getppid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent has died, so that none gets out of sight."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_descendants(patience: float) -> None:
    """Wait for all descendants of this process to end, and kill those that have not after `patience` seconds."""
    deadline = time.monotonic() + patience
    while descendants := _descendants(os.getpid()):
        if time.monotonic() > deadline:
            for pid in descendants:
                _kill(pid)
        _reap()
        time.sleep(0.01)


def _descendants(ancestor: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*") if _LIBC is not None else ():
        try:
            # pid (name) state ppid ...: the name may hold spaces and brackets, so count from behind it
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended since it was listed
        children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [ancestor]
    while queue:
        for pid in children.get(queue.pop(), []):
            found.append(pid)
            queue.append(pid)
    return found


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
