"""What Linux can do so that no process outlives its purpose. Elsewhere these functions do nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Of the processes that stat files are about, those of the session by their name: pid (name) state ppid pgrp session ...
_END_SESSION = r"""
leader=$0 name=$1 tenths=$2
alive() { sed -n "s/^\([0-9]*\) ($name[^)]*) [^ZX] [0-9]* [0-9]* $leader .*/\1/p" "$@" 2>/dev/null; }
read nothing
while [ "$tenths" -gt 0 ] && [ -n "$(alive "/proc/$leader/stat")" ]; do sleep 0.1; tenths=$((tenths - 1)); done
left=$(alive /proc/[0-9]*/stat)
[ -z "$left" ] || kill -KILL $left
"""
# A process keeps the environment that it was started with, whatever becomes of its parents and its session.
_END_MARKED = r"""
trap '' TERM INT HUP USR1 USR2
mark=$0 tenths=$1 tries=100
marked() { grep -lF "$mark" /proc/[0-9]*/environ 2>/dev/null | sed 's:/proc/::; s:/environ::'; }
read nothing
while [ "$tenths" -gt 0 ] && [ -n "$(marked)" ]; do sleep 0.1; tenths=$((tenths - 1)); done
while [ "$tries" -gt 0 ] && left=$(marked) && [ -n "$left" ]; do
    kill -KILL $left 2>/dev/null
    sleep 0.05
    tries=$((tries - 1))
done
"""
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def end_with_parent(program: str = "", parent: int = 0) -> None:
    """Ask the kernel to kill this process when its parent dies; the wish survives exec.

    Args:
        program: a word of the parent's command line. A parent that has not got it is not the one that started this
            process, but the one that took it over when that died, before the kernel was asked.
        parent: the process that the parent must be, where that is known.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    strange = program and program.encode() not in _command_line(os.getppid())
    if strange or (parent and parent != os.getppid()):
        os.kill(os.getpid(), signal.SIGKILL)


def stop_with_parent() -> None:
    """Ask the kernel to send this process SIGTERM when its parent dies; the wish survives exec."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _command_line(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent has died, so that none gets out of sight."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_descendants(
    patience: float, favoured: str = "", longer: float = 0.0, spare: frozenset[int] = frozenset()
) -> None:
    """Wait for descendants of this process to end, and kill those that have not after some time.

    Args:
        patience: seconds that they get.
        favoured: what the names of those begin with that get longer; nobody's where it is empty.
        longer: seconds that these get.
        spare: descendants that are none of our business: they were there before.
    """
    began = time.monotonic()
    while descendants := descendants_of(os.getpid()) - spare:
        passed = time.monotonic() - began
        for pid in descendants:
            if passed >= (longer if favoured and _name_of(pid).startswith(favoured) else patience):
                _kill(pid)
        _reap()
        time.sleep(0.01)


def end_session_with_this(leader: int, name: str, patience: float) -> None:
    """Kill the processes of a session soon after this process has ended, in whatever way.

    A shell waits for that: it reads from a pipe that nobody writes to, which ends when this process does.

    Args:
        leader: the process that began the session.
        name: what their names begin with. Others are none of it: a session that has ended leaves its number free.
        patience: seconds that the leader gets to end by itself; what is left is killed as soon as it has.
    """
    if _LIBC is None:
        return
    reader, _ = os.pipe()  # the other end stays open for as long as this process lives
    with suppress(OSError):  # a system without a shell
        subprocess.Popen(
            ["sh", "-c", _END_SESSION, str(leader), name, str(round(10 * patience))],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # signals to the group of a rank are not meant for it
        )
    os.close(reader)


class EndsMarked:
    """Kills the processes that have a mark in their environment, soon after this process has ended in whatever way.

    A shell waits for that, as in `end_session_with_this`; it has an environment without the mark.

    Args:
        mark: what is nowhere else in an environment.
        patience: seconds that they get to end by themselves.
    """

    def __init__(self, mark: str, patience: float) -> None:
        self._writer: int | None = None
        if _LIBC is None:
            return
        reader, self._writer = os.pipe()
        with suppress(OSError):  # a system without a shell
            subprocess.Popen(
                ["sh", "-c", _END_MARKED, mark, str(round(10 * patience))],
                env={"PATH": os.environ.get("PATH", os.defpath)},
                cwd="/",
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # signals to the group of this process are not meant for it
            )
        os.close(reader)

    def now(self) -> None:
        """Kill them, as if this process had ended."""
        if self._writer is not None:
            os.close(self._writer)
        self._writer = None


def descendants_of(ancestor: int) -> frozenset[int]:
    """The process ids of a process's children, their children and so on; none where there is no /proc."""
    children = _children()
    found: set[int] = set()
    queue = [ancestor]
    while queue:
        below = children.get(queue.pop(), [])
        found.update(below)
        queue += below
    return frozenset(found)


def children_of(parent: int) -> frozenset[int]:
    """The process ids of a process's children; none where there is no /proc."""
    return frozenset(_children().get(parent, ()))


def kill_children_named(start: str) -> None:
    """Kill the children of this process whose names begin so."""
    for pid in children_of(os.getpid()):
        if _name_of(pid).startswith(start):
            _kill(pid)


def _name_of(pid: int) -> str:
    """The name of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _children() -> dict[int, list[int]]:
    """Every process that has some, with the process ids of its children."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*") if _LIBC is not None else ():
        try:
            # pid (name) state ppid ...: the name may hold spaces and brackets, so count from behind it
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended since it was listed
        children.setdefault(parent, []).append(int(entry.name))
    return children


@dataclass(frozen=True)
class Activity:
    """What a process does.

    Attributes:
        state: the kernel's letter: R runs, S sleeps, D waits for a disk, T was stopped, t is held by a debugger.
        seconds: of processor time that it has used, in all of its threads.
    """

    state: str
    seconds: float

    @property
    def stopped(self) -> bool:
        """Whether a signal has stopped it, and it waits for the one that lets it go on."""
        return self.state == "T"

    @property
    def sleeps(self) -> bool:
        """Whether its main thread waits for an event."""
        return self.state == "S"


def activity_of(pid: int) -> Activity | None:
    """What a process does; None where it has ended, or there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return Activity(fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
