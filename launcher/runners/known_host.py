"""Waiting for the name of the first machine: where machines get their names as they start, it comes with that one."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from time import monotonic, sleep

from launcher.errors import LauncherError
from launcher.runners.address import is_own
from launcher.runners.supervise import Signals

_AGAIN = 1.0  # seconds between two questions
_SILENT = 2.0  # seconds of waiting that nobody need hear of
_TICK = 0.1


class HostUnknownError(LauncherError):
    """Nobody knows the name of the first machine, and it was waited for long enough."""


def known_as_own(
    host: str, expected: bool, patience: float, signals: Signals, say: Callable[[str], None]
) -> bool | None:
    """Whether a host is this machine, once that is known; None when a signal has come first.

    Args:
        host: a name or an address.
        expected: whether it is this machine by its name: where the answer is another one, the name server has not
            heard of this one yet.
        patience: seconds to go on asking.
        signals: what came for this launcher.
        say: takes a sentence that the user should read.

    Raises:
        HostUnknownError: it is still not known.
    """
    began, told = monotonic(), False
    while not signals.received:
        question, asked = _Question(host), monotonic()
        question.start()
        while not signals.received:
            waited = monotonic() - began
            if question.own is not None and (question.own or not expected):
                return question.own
            if waited > patience:
                raise HostUnknownError(
                    f"{host} (--rendezvous) is {question.why}, after {patience:g} s (parallel.timeout). "
                    "Start the machine with --node-rank 0, or write what it is called here."
                )
            if waited > _SILENT and not told:
                say(f"waiting for {host}, which is {question.why}")
                told = True
            if not question.is_alive() and monotonic() - asked > _AGAIN:
                break
            sleep(_TICK)
    return None


class _Question(Thread):
    """Asks whose name it is. A name server may take long to say nothing, and no signal is heard meanwhile.

    Attributes:
        own: whether it is one of this machine; None while that is not known.
        why: what is the matter with it then.
    """

    def __init__(self, host: str) -> None:
        super().__init__(daemon=True)
        self._host = host
        self.own: bool | None = None
        self.why = "not known here yet"

    def run(self) -> None:
        """Ask once."""
        try:
            own = is_own(self._host)
        except OSError as error:
            self.why = f"not known here yet: {error.strerror}"
        else:
            self.why = "not known as this machine yet"
            self.own = own
