"""Watches a run to its end: signals passed on, progress told, the outcome worked out."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Protocol

from launcher.errors import ExitCode
from launcher.rundir.failure import TRACEBACK_MARK, FailureRecord
from launcher.rundir.heartbeat import STACKS
from launcher.rundir.layout import RunDirectory
from launcher.rundir.status import RunStatus
from launcher.runners.base import RunHandle
from launcher.runners.follow import LineFollower, RowFollower
from launcher.runners.outcome import Outcome, outcome_of
from launcher.runners.watch import Watch

UPDATES_TO_END = 3  # the one under way, the one in which the ranks agree, and one for luck
_TICK = 0.1
_FOR_STACKS = 0.5  # seconds that ranks get to write their stacks before they are killed
_TO_BE_GONE = 1.0  # seconds after which what is killed is gone
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Slurm warns of the end of its time by one of these; torchrun does not know them, and would leave its workers behind.
_PASSED_ON_AS_TERM = (signal.SIGUSR1, signal.SIGUSR2)
_SIGNALS = (*_PASSED_ON, *_PASSED_ON_AS_TERM)


class Observer(Protocol):
    """Is told what happens while a run is watched."""

    def row(self, row: Mapping[str, float | None]) -> None:
        """An update was made; its metrics."""
        ...

    def line(self, text: str) -> None:
        """Rank 0 printed a line."""
        ...

    def tick(self) -> None:
        """A moment has passed."""
        ...

    def stopping(self, signal_name: str, hurries: bool) -> None:
        """A signal has come and the run was asked to stop; whether another one of its kind would end it now."""
        ...


class Signals:
    """Signals that have come since they are listened for.

    Args:
        patient: take the first one alone, and Ctrl-C. A batch system sends more of them, and kills by itself.
    """

    def __init__(self, patient: bool = False) -> None:
        self.received: list[int] = []
        self._patient = patient

    @property
    def hurry(self) -> bool:
        """Whether one more would end the run now."""
        return not self._patient

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take one signal, as a handler does."""
        if not self.received or not self._patient or number == signal.SIGINT:
            self.received.append(number)


def supervise(
    handle: RunHandle,
    run: RunDirectory,
    observer: Observer,
    signals: Signals,
    grace: float,
    watch: Watch,
    change: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Watch a run until it has ended and nothing of it is left.

    The first signal is passed on, and the run ends at an update: the ranks agree in the one after that in which the
    signal came. A second signal, or too long a time, ends it now.

    Args:
        handle: the run, started.
        run: its directory, where its metrics and the log of rank 0 are followed.
        observer: is told what happens.
        signals: what `listening` has received, also before the run was started.
        grace: seconds from a signal to the end, beside the time of the updates until then; then the run is killed.
        watch: finds a rank that hangs; the run is then killed, and that rank is why.
        change: whether the run is to stop at an update, to go on with other machines.

    Returns:
        How the run ended; `status.json` says it too.
    """
    progress = _Progress(run, observer)
    try:
        code, stopped = _wait(handle, run, signals, progress, observer, grace, watch, change)
    except BaseException:
        with suppress(OSError):
            RunStatus("interrupted", progress.update, progress.samples_seen, ExitCode.INTERRUPTED).write(run)
        raise
    finally:
        handle.close()
    progress.follow()
    outcome = outcome_of(code, stopped or bool(signals.received), run, progress.update, progress.samples_seen)
    with suppress(OSError):  # the outcome is told in any case
        outcome.status.write(run)
    return outcome


def _wait(
    handle: RunHandle,
    run: RunDirectory,
    signals: Signals,
    progress: _Progress,
    observer: Observer,
    grace: float,
    watch: Watch,
    change: Callable[[], bool],
) -> tuple[int, bool]:
    """The exit code of the run, and whether it was asked to stop."""
    heeded = 0
    deadline = float("inf")
    while (code := handle.wait(_TICK)) is None:
        progress.follow()
        observer.tick()
        stopping = deadline < float("inf")
        came = len(signals.received)
        first = signals.received[0] if came > heeded == 0 else 0
        if first or (not stopping and change()):
            heeded = came
            if not stopping:
                deadline = time.monotonic() + grace + UPDATES_TO_END * progress.seconds_per_update
                handle.stop(first if first in _PASSED_ON else signal.SIGTERM)
            if first:
                observer.stopping(signal.Signals(first).name, signals.hurry)
        elif came > heeded or time.monotonic() > deadline:
            handle.kill()
        elif not stopping and (culprit := watch.hanging(handle.agent)):
            end_hanging(handle, run, culprit, watch.processes())
    return code, deadline < float("inf")


def end_hanging(handle: RunHandle, run: RunDirectory, culprit: FailureRecord, processes: Iterable[int]) -> None:
    """Kill a run that hangs, with the cause on record before the other ranks can say anything of it.

    The signal may wake the rank, and one that goes to its end takes its record back: it is killed all the same.
    """
    with suppress(OSError):
        culprit.write(run)
    for pid in processes:
        with suppress(OSError):
            os.kill(pid, STACKS)
    handle.wait(_FOR_STACKS)
    handle.kill()
    handle.wait(_TO_BE_GONE)
    with suppress(OSError):
        culprit.write(run)


class _Progress:
    """How far a run is, read from its files."""

    def __init__(self, run: RunDirectory, observer: Observer) -> None:
        self._run = run
        self._observer = observer
        self._rows = RowFollower(run.metrics)
        self._lines = LineFollower(run.rank_log(0))
        self._failed = False
        self._written = 0.0
        self.update = 0
        self.samples_seen = 0
        self.seconds_per_update = 0.0
        RunStatus("running").write(run)

    def follow(self) -> None:
        """Tell what is new; renew `status.json` about once a second."""
        for line in self._lines.new():
            self._failed = self._failed or line == TRACEBACK_MARK
            if not self._failed:
                self._observer.line(line)
        for row in self._rows.new():
            self.update = int(row["train/global_step"] or 0)
            self.samples_seen = int(row.get("train/samples_seen") or 0)
            self.seconds_per_update = row.get("time/update") or 0.0
            self._observer.row(row)
        if time.monotonic() - self._written > 1.0:
            self._written = time.monotonic()
            with suppress(OSError):  # a full disk must not end the run: the next status may find room
                RunStatus("running", self.update, self.samples_seen).write(self._run)


@contextmanager
def listening(patient: bool = False) -> Iterator[Signals]:
    """Receive the signals that ask to stop instead of ending by them.

    One that was ignored when this process was started (by nohup, say) is ignored still.

    Args:
        patient: whether more of them than one are to change nothing, but for Ctrl-C.
    """
    signals = Signals(patient)
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signals) for number in heeded}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
