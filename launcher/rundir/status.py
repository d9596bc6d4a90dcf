"""How a run stands: `status.json`, read by people and scripts while it runs and after."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from launcher.rundir.layout import RunDirectory, write_atomically, write_over

State = Literal["running", "done", "failed", "preempted", "interrupted"]


@dataclass(frozen=True)
class FailureStatus:
    """The root cause of a failed run: which rank, what it raised, and the log that holds the rest."""

    rank: int
    exception: str
    log: str


@dataclass(frozen=True)
class RunStatus:
    """State, progress and outcome of a run.

    Attributes:
        state: what the run is doing, or how it ended.
        update: updates made.
        samples_seen: samples consumed.
        exit_code: of the command that ran it; None while it runs.
        failure: the root cause, when it failed.
    """

    state: State
    update: int = 0
    samples_seen: int = 0
    exit_code: int | None = None
    failure: FailureStatus | None = None

    @staticmethod
    def read(run: RunDirectory) -> RunStatus | None:
        """The run's status; None where there is none that can be read."""
        try:
            found = json.loads(run.status.read_text(encoding="utf-8"))
            failure = found.pop("failure")
            return RunStatus(**found, failure=None if failure is None else FailureStatus(**failure))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, run: RunDirectory) -> None:
        """Replace the run's status file, which a full disk does not hinder where there is one.

        Raises:
            OSError: it cannot be written.
        """
        text = json.dumps(asdict(self), indent=2) + "\n"
        try:
            write_atomically(run.status, text)
        except OSError:
            write_over(run.status, text)
