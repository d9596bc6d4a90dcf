"""A launch on this machine, watched to its end by whatever shows it."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Protocol

from launcher.cli.output import LastingOutput
from launcher.launch.spec import LaunchSpec
from launcher.rundir.layout import RunDirectory
from launcher.runners.local import LocalRunner
from launcher.runners.outcome import Outcome
from launcher.runners.supervise import Observer, Signals, supervise
from launcher.runners.watch import Limits, Watch


class Show(Observer, AbstractContextManager[object], Protocol):
    """Shows a run while it goes on."""


def watched(spec: LaunchSpec, run: RunDirectory, show: Show, signals: Signals, grace: float, limits: Limits) -> Outcome:
    """Start a launch and watch it until nothing of it is left.

    Args:
        spec: the launch.
        run: its directory, which is held.
        show: is shown while it goes on.
        signals: what came for this launcher.
        grace: seconds from a signal to the end, beside the time of the updates until then.
        limits: when a rank counts as hanging.
    """
    handle = LocalRunner().start(spec, run)  # before the display, whose thread a fork would not copy
    with show:
        return supervise(handle, run, show, signals, grace, Watch(run, limits))


def say_cause(outcome: Outcome) -> None:
    """Why a run failed, if it did, as the last words on standard error."""
    if outcome.cause:
        print(f"launcher: {outcome.cause}", file=LastingOutput(sys.stderr))
