"""The launchers of an elastic run as the one that leads them sees them: who is there, and who takes part."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace

from launcher.errors import LauncherError
from launcher.recipe.node_range import NodeRange
from launcher.rundir.layout import RunDirectory
from launcher.runners.base import RunHandle
from launcher.runners.nodes import Node, NodeState, nodes_of
from launcher.runners.rounds import Round
from launcher.runners.supervise import Signals
from launcher.words import plural

LOOK = 0.2  # seconds between two looks at the other launchers
_SETTLE = 1.0  # seconds in which nobody comes or goes before a round begins: machines often come together
_APART = 3.0  # seconds that the agents of a round may end apart when it fails; each has yet to say what it knows
_KILLED = 10.0  # seconds that other launchers get to kill what is left of a round


class TooFewMachinesError(LauncherError):
    """The run cannot go on with the machines that it has left."""


class Together:
    """Who of the launchers is wanted for a round.

    Args:
        run: the directory of the run, which this launcher holds.
        me: this launcher.
        machines: how many there may be.
    """

    def __init__(self, run: RunDirectory, me: Node, machines: NodeRange) -> None:
        self._run = run
        self._me = me
        self._machines = machines
        self._looked = float("-inf")
        self._seen: dict[str, NodeState] = {}
        self.round: tuple[str, ...] = ()

    def seen(self) -> dict[str, NodeState]:
        """The launchers that are there; not older than a moment."""
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            there = nodes_of(self._run)
            self._seen = {name: state for name, state in there.items() if state.launch == self._me.launch}
        return self._seen

    def changed(self) -> bool:
        """Whether another round would have other machines than this one."""
        return set(self._wanted()) != set(self.round)

    def gathered(self, signals: Signals, patience: float, say: Callable[[str], None]) -> bool:
        """Wait until there are enough launchers for a round, and no more come; whether no signal came first.

        Args:
            signals: what came for this launcher.
            patience: seconds to wait for the fewest that there must be.
            say: takes a sentence that the user should read.

        Raises:
            TooFewMachinesError: not enough came.
        """
        found: tuple[str, ...] = ()
        began = since = time.monotonic()
        told = False
        while not signals.received:
            wanted = self._wanted()
            if wanted != found:
                found, since = wanted, time.monotonic()
            missing = self._machines.least - len(found)
            if missing <= 0 and time.monotonic() - since >= (0 if len(found) == self._machines.most else _SETTLE):
                self.round = found
                return True
            if missing > 0 and time.monotonic() - began > patience:
                raise TooFewMachinesError(
                    f"{plural(self._machines.least, 'machine')} must be there (launch.nodes {self._machines}), and "
                    f"after {patience:g} s (parallel.timeout) there {'is' if len(found) == 1 else 'are'} {len(found)}."
                )
            if missing > 0 and not told:
                say(f"waiting for {plural(missing, 'more machine')} (launch.nodes {self._machines})")
                told = True
            time.sleep(LOOK)
        return False

    def _wanted(self) -> tuple[str, ...]:
        """This launcher first, then who takes part already, then who came since, as far as there is room."""
        seen = self.seen().items()
        there = [name for name, state in seen if state.joined and not state.leaving and name != self._me.name]
        there.sort(key=lambda name: name not in self.round)
        return (self._me.name, *there[: self._machines.most - 1])


class SharedRun:
    """A round of an elastic run: the agent of this machine, and what is known of those of the others.

    Attributes:
        lost: the launchers that died in it.

    Args:
        local: the agent of this machine.
        run: the directory of the run.
        number: of the round.
        together: the launchers.
        grace: seconds that the others have to save and end after this machine has.
        say: takes a sentence that the user should read.
    """

    def __init__(
        self,
        local: RunHandle,
        run: RunDirectory,
        number: int,
        together: Together,
        grace: float,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._local = local
        self._run = run
        self._number = number
        self._together = together
        self._grace = grace
        self._say = say
        self._others = {name: state for name, state in together.seen().items() if name in together.round[1:]}
        self._stopping = False
        self._ended_at = self._over_at = float("inf")
        self._left_out: dict[str, float] = {}  # since when
        self.lost: list[str] = []

    @property
    def agent(self) -> int:
        """The process of the agent of this machine."""
        return self._local.agent

    @property
    def leaving(self) -> list[str]:
        """The launchers that were told to stop."""
        return [state.process for state in self._others.values() if state.leaving]

    def wait(self, seconds: float) -> int | None:
        """Wait for the agents of all machines; the exit code of the one here, or None while any runs."""
        code = self._local.wait(seconds)
        running = self._look()
        now = time.monotonic()
        if code is None:
            if self.lost:
                self.kill()
            self._tell_left_out()
            return None
        if not running:
            return code
        self._ended_at = min(self._ended_at, now)
        failed = code != 0 and not self._stopping
        if now - self._ended_at > (_APART if failed else self._grace):
            self._tell_over()
        if now - self._over_at > _KILLED:
            return code
        time.sleep(seconds)
        return None

    def stop(self, signal_number: int) -> None:
        """Signal the agent here: the ranks of all machines agree to stop, and those of the others follow by that."""
        self._stopping = True
        self._local.stop(signal_number)

    def kill(self) -> None:
        """End the run now, on all machines."""
        self._tell_over()
        self._local.stop(signal.SIGKILL)

    def close(self) -> None:
        """Leave nothing of the run behind on this machine."""
        self._local.close()

    def _look(self) -> bool:
        """Note who has died or ended; whether another machine still runs its part."""
        seen = self._together.seen()
        for name, state in self._others.items():
            if name in seen:
                self._others[name] = seen[name]
            elif state.ended < self._number and not state.leaving:  # who leaves is gone when its part has ended
                self.lost.append(state.process)
                self._others[name] = replace(state, ended=self._number)
        return any(name in seen and seen[name].ended < self._number for name in self._others)

    def _tell_left_out(self) -> None:
        """Say whose part has failed in a round that goes on all the same, as where others have not met it."""
        now = time.monotonic()
        for name, state in self._others.items():
            if state.ended < self._number or not state.failed or self.lost or self._stopping:
                continue
            if self._left_out.setdefault(name, now) + _APART < now:
                self._left_out[name] = float("inf")
                self._say(f"goes on without {state.process}, whose part has failed or could not be reached")

    def _tell_over(self) -> None:
        if self._over_at == float("inf"):
            self._over_at = time.monotonic()
            Round(self._number).publish(self._run)
