"""Waiting until all machines that were to be started by hand are there, before any of them starts its ranks.

Machine 0 listens where the ranks will meet, and the others tell it their numbers. Who is missing can be named so, which
torchrun does not: it waits, and says nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing, suppress
from time import monotonic, sleep

from launcher.errors import LauncherError, Mistake, RequestError
from launcher.launch.torchrun import endpoint_host
from launcher.runners.place import Place
from launcher.runners.supervise import Signals
from launcher.words import plural

_SILENT = 2.0  # seconds of waiting that nobody need hear of
_TICK = 0.1
_ANSWER = 5.0  # seconds in which who has connected says what it wants
_HELLO, _GO, _TAKEN, _OTHERS, _RECIPE = "launcher", "go", "taken", "others", "recipe"


class MachineMissingError(LauncherError):
    """A machine has not come, and it was waited for long enough."""


def gathered(
    place: Place, patience: float, signals: Signals, say: Callable[[str], None], again: str, recipe: str
) -> bool:
    """Wait until all machines are there.

    Args:
        place: of this machine, whose endpoint machine 0 can be reached at.
        patience: seconds to wait.
        signals: what came for this launcher.
        say: takes a sentence that the user should read.
        again: the command that every machine is to be started with.
        recipe: a word that is the same where their recipes are.

    Returns:
        Whether they are: a signal may have come first.

    Raises:
        MachineMissingError: one has not come.
        RequestError: another machine has the place of this one, means another number of machines, or has
            another recipe.
    """
    waiting = _Waiting(place, patience, signals, say, again)
    return _listen(place, waiting, recipe) if place.rank == 0 else _join(place, waiting, recipe)


class _Waiting:
    """How long it was waited, and what was said of it.

    Args: as for `gathered`.
    """

    def __init__(self, place: Place, patience: float, signals: Signals, say: Callable[[str], None], again: str) -> None:
        self._began = monotonic()
        self._told = False
        self._place, self._patience, self._signals, self._say, self._again = place, patience, signals, say, again

    def goes_on(self, missing: str) -> bool:
        """Whether to look again for machines that are missing; False when a signal has come.

        Raises:
            MachineMissingError: it was looked for them long enough.
        """
        waited, there = monotonic() - self._began, self._place.endpoint
        if waited > self._patience:
            raise MachineMissingError(
                f"{missing} has not come to {there} within {self._patience:g} s (parallel.timeout): "
                f"start {self._again} there too."
            )
        if waited > _SILENT and not self._told:
            self._say(f"waiting for {missing} at {there}: start {self._again} there too")
            self._told = True
        return not self._signals.received


def _listen(place: Place, waiting: _Waiting, recipe: str) -> bool:
    """Machine 0: wait for all others, and let them go on."""
    port = int(place.endpoint.rpartition(":")[2])
    there = dict[int, socket.socket]()
    with closing(_server(port)) as server:
        server.settimeout(_TICK)
        while missing := [rank for rank in range(1, place.nodes) if rank not in there]:
            if not waiting.goes_on(f"machine {missing[0]}"):
                break
            with suppress(OSError):
                _welcome(server.accept()[0], place, recipe, there)
            for rank in [rank for rank, other in there.items() if _is_gone(other)]:
                there.pop(rank).close()
    for other in there.values():
        with suppress(OSError), other:
            if not missing:
                other.sendall(f"{_GO}\n".encode())
                other.recv(1)  # its end, so that the port is free here
    return not missing


def _server(port: int) -> socket.socket:
    """Listens on all addresses, of both kinds where the machine has them."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _welcome(other: socket.socket, place: Place, recipe: str, there: dict[int, socket.socket]) -> None:
    """Take in a machine that has connected; what is none of the launcher's is sent away."""
    other.settimeout(_ANSWER)
    words = _line(other).split()
    if len(words) != 4 or words[0] != _HELLO or not all(word.isdecimal() for word in words[1:3]):
        other.close()
        return
    rank, nodes = int(words[1]), int(words[2])
    answer = ""
    if nodes != place.nodes:
        answer = _OTHERS
    elif rank in there or not 0 < rank < nodes:
        answer = _TAKEN
    elif words[3] != recipe:
        answer = _RECIPE
    if answer:
        with other:
            other.sendall(f"{answer} {place.nodes}\n".encode())
        return
    there[rank] = other


def _is_gone(other: socket.socket) -> bool:
    """Whether a machine that has come has gone again: it has nothing to say, and its end can be read."""
    other.setblocking(False)
    try:
        return other.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        other.settimeout(_ANSWER)


def _join(place: Place, waiting: _Waiting, recipe: str) -> bool:
    """Another machine: tell machine 0 that this one is there, and wait for its word."""
    host, port = endpoint_host(place.endpoint), int(place.endpoint.rpartition(":")[2])
    while waiting.goes_on("machine 0"):
        with suppress(OSError), socket.create_connection((host, port), timeout=1.0) as first:
            first.sendall(f"{_HELLO} {place.rank} {place.nodes} {recipe}\n".encode())
            first.settimeout(_TICK)
            answer = ""
            while waiting.goes_on("another machine"):
                with suppress(TimeoutError):
                    answer = _line(first)
                    break
            if answer == _GO:
                return True
            _refuse(place, answer.split())
        sleep(_TICK)
    return False


def _refuse(place: Place, words: list[str]) -> None:
    if words[:1] == [_TAKEN]:
        wrong = f"{place.rank} is taken by another machine"
        raise RequestError([Mistake("--node-rank", wrong, "Give each machine a number of its own")])
    if words[:1] == [_OTHERS]:
        wrong = f"is {place.nodes}, and machine 0 waits for {plural(int(words[1]), 'machine')}"
        raise RequestError([Mistake("--nodes", wrong, "Give all of them the same")])
    if words[:1] == [_RECIPE]:
        wrong = "is not what machine 0 has, with the keys after it"
        raise RequestError([Mistake("--recipe", wrong, "Give all of them the same")])


def _line(sender: socket.socket) -> str:
    """What is sent up to the end of a line, or of all."""
    said = b""
    while not said.endswith(b"\n") and len(said) < 100 and (more := sender.recv(100)):
        said += more
    return said.decode(errors="replace").strip()
