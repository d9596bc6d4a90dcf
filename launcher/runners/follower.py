"""A launcher of an elastic run that another one leads: it runs its part of each round, until nobody leads any more."""

from __future__ import annotations

import time
from collections.abc import Callable

from launcher.errors import LauncherError
from launcher.launch.spec import LaunchSpec
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import is_held
from launcher.runners.local import LocalRunner
from launcher.runners.nodes import Node
from launcher.runners.rounds import Round
from launcher.runners.supervise import Signals, end_hanging
from launcher.runners.together import LOOK
from launcher.runners.watch import Limits, Watch


class LeftOutError(LauncherError):
    """This machine cannot take part in the run."""


class Follower:
    """What this launcher does while another one leads.

    Args:
        run: the directory of the run.
        me: this launcher.
        signals: what came for it.
        spec_of: the launch of this machine's part of a round.
        grace: seconds from a signal to the end.
        heartbeat: seconds without a sign of life after which a rank of this machine counts as hanging; 0 never.
        left_out: seconds that a round may go on when the part of this machine has ended.
    """

    def __init__(
        self,
        run: RunDirectory,
        me: Node,
        signals: Signals,
        spec_of: Callable[[Round], LaunchSpec],
        grace: float,
        heartbeat: float,
        left_out: float = 60.0,
    ) -> None:
        self._run = run
        self._me = me
        self._signals = signals
        self._spec_of = spec_of
        self._grace = grace
        self._limits = Limits(heartbeat=heartbeat)
        self._left_out = left_out
        self._last = 0
        self._ended_at = float("inf")

    def follow(self) -> int | None:
        """Take part until the run has ended, with its exit code; None when nobody leads, or a signal came for us.

        Raises:
            LeftOutError: the others go on without this machine, whose part has failed.
        """
        while not self._signals.received:
            led = is_held(self._run)  # looked at first: who leads tells the end before it lets go
            told = Round.read(self._run)
            if told is not None and told.launch != self._me.launch:
                told = None
            if told is not None and told.exit_code is not None:
                return told.exit_code
            if not led:
                return None
            if told is not None and self._me.name in told.nodes and told.number > self._last:
                self._take_part(told)
            elif (
                told is not None and self._me.name in told.nodes and time.monotonic() - self._ended_at > self._left_out
            ):
                raise LeftOutError(
                    f"This machine's part of the run has failed, and the others go on. Its log: {self._run.agent_log}"
                )
            else:
                time.sleep(LOOK)
        return None

    def _take_part(self, round_: Round) -> None:
        """Run this machine's agent until it ends, the round is over, or too long after a signal."""
        handle = LocalRunner().start(self._spec_of(round_), self._run)
        watch = Watch(self._run, self._limits, self._me.name)
        deadline = float("inf")
        code = None
        try:
            while (code := handle.wait(LOOK)) is None:
                came = len(self._signals.received)
                if came and deadline == float("inf"):
                    self._me.leaves()  # who leads stops the run at an update, and it goes on without us
                    deadline = time.monotonic() + 2 * self._grace
                if came > 1 or time.monotonic() > deadline or self._is_over(round_):
                    handle.kill()
                elif not came and (culprit := watch.hanging(handle.agent)):
                    end_hanging(handle, self._run, culprit, watch.processes())
        finally:
            handle.close()
            self._last, self._ended_at = round_.number, time.monotonic()
            self._me.has_ended(round_.number, failed=bool(code))

    def _is_over(self, round_: Round) -> bool:
        told = Round.read(self._run)  # None where it cannot be read just now, or nobody leads
        return (told is not None and told != round_) or not is_held(self._run)
