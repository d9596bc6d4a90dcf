"""The machines of an elastic run: each launcher of it has a file, locked for as long as the launcher lives."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import this_process

_READS = 5
_WIDTH = 1024  # what a launcher says is written over what it said: another file would not be locked


@dataclass(frozen=True)
class NodeState:
    """What a launcher says of itself.

    Attributes:
        process: what people would look for.
        ended: the last round in which nothing of its own runs any more; 0 for none.
        leaving: whether it was asked to stop, and wants no part in another round.
        launch: that it belongs to, where all of its machines were started together.
        place: its number among them.
        failed: whether its part of the last round ended by itself, and not well.
        joined: whether it wants a part at all; not before it has held its recipe against that of who leads.
    """

    process: str
    ended: int = 0
    leaving: bool = False
    launch: str = ""
    place: int | None = None
    failed: bool = False
    joined: bool = True


class Node:
    """This launcher among those of an elastic run.

    Attributes:
        name: its name, which no other has.
        launch: that it belongs to.

    Args:
        name: the name.
        descriptor: its file, open and locked.
        state: what it says of itself at first.
    """

    def __init__(self, name: str, descriptor: int, state: NodeState) -> None:
        self.name = name
        self.launch = state.launch
        self._descriptor = descriptor
        self._state = state
        self._write()

    def joins(self) -> None:
        """Tell that this launcher takes part in the next round."""
        self._state = replace(self._state, joined=True)
        self._write()

    def has_ended(self, number: int, *, failed: bool = False) -> None:
        """Tell that nothing of a round runs here any more."""
        self._state = replace(self._state, ended=number, failed=failed)
        self._write()

    def leaves(self) -> None:
        """Tell that this launcher was asked to stop."""
        self._state = replace(self._state, leaving=True)
        self._write()

    def _write(self) -> None:
        os.pwrite(self._descriptor, json.dumps(asdict(self._state)).ljust(_WIDTH).encode(), 0)


@contextmanager
def present(run: RunDirectory, launch: str = "", place: int | None = None, *, joined: bool = True) -> Iterator[Node]:
    """Be one of the launchers of a run: the others see its file once it is locked, and until this process ends.

    Args:
        run: the directory of the run.
        launch: that this launcher belongs to, where all of its machines were started together.
        place: its number among them.
        joined: whether it wants a part from the beginning.
    """
    run.nodes.mkdir(exist_ok=True)
    name = uuid4().hex[:12]
    path = run.nodes / name
    begun = path.with_name(f".{name}")
    descriptor = os.open(begun, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        node = Node(name, descriptor, NodeState(this_process(), launch=launch, place=place, joined=joined))
        begun.rename(path)
        yield node
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def nodes_of(run: RunDirectory) -> dict[str, NodeState]:
    """The launchers of a run that live, by name; files of others are removed."""
    found = {}
    for path in sorted(run.nodes.glob("[!.]*")):
        with suppress(OSError):
            if _is_locked(path):
                found[path.name] = _read(path)
            else:
                path.unlink(missing_ok=True)
    return found


def _read(path: Path) -> NodeState:
    """What a launcher says; it writes in one piece, but a reader may still meet it half-way."""
    for _ in range(_READS):
        with suppress(ValueError, TypeError):
            return NodeState(**json.loads(path.read_bytes()))
    return NodeState(path.name)


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
