"""What a worker leaves behind when it fails, and which of several failures came first."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from launcher.rundir.layout import RunDirectory, write_atomically

# Stands in a rank's log above its traceback: the terminal shows what comes before it.
TRACEBACK_MARK = "--- this rank failed ---"

AGENT = -1  # stands where a rank would: torchrun or accelerate itself

# What torch raises in the other ranks when one is gone: true, and not the cause. A task's own trouble with a network
# has other types or other words.
_OF_THE_GROUP = ("DistBackendError", "DistNetworkError", "DistStoreError")
_GAVE_UP = ("timed out", "timeout")
_PEER_IS_GONE = ("connection closed by peer", "connection reset by peer", "gloo/", "nccl", "timed out waiting")


@dataclass(frozen=True)
class FailureRecord:
    """An exception that ended a worker, written by the worker before anything is torn down.

    Attributes:
        rank: the worker.
        time_ns: when, in nanoseconds since 1970.
        exception: name of the exception's type.
        message: its text.
        update: the update that was being made, from 1; 0 before the first; None for a script or a proof.
        exit_code: of the command, where the message is all that its user needs; None where the worker failed.
    """

    rank: int
    time_ns: int
    exception: str
    message: str
    update: int | None
    exit_code: int | None = None

    @property
    def peer_is_gone(self) -> bool:
        """Whether the worker failed because another one had."""
        if self.exception in _OF_THE_GROUP:
            return True
        return self.exception == "RuntimeError" and any(sign in self.message.lower() for sign in _PEER_IS_GONE)

    @property
    def gave_up(self) -> bool:
        """Whether the worker waited for another one until its time was over; one that dies is missed at once."""
        return self.peer_is_gone and any(sign in self.message.lower() for sign in _GAVE_UP)

    def write(self, run: RunDirectory) -> None:
        """Leave the record in the run directory."""
        run.failures.mkdir(parents=True, exist_ok=True)
        write_atomically(run.failures / f"rank_{self.rank}.json", json.dumps(asdict(self)))


@dataclass(frozen=True)
class WorkerDeath:
    """A worker that ended badly, as the agent saw it.

    Attributes:
        rank: the worker.
        exit_code: its exit code, negative for a signal.
        waited_for: whether the other ranks had waited for it until they gave up: the agent killed it after that.
    """

    rank: int
    exit_code: int
    waited_for: bool = False


@dataclass(frozen=True)
class AgentRecord:
    """What torchrun or accelerate knew when it ended, which its own exit code does not tell; of all machines together.

    Attributes:
        deaths: workers that ended with another code than 0.
        signal: the signal that stopped the agent, or 0.
    """

    deaths: tuple[WorkerDeath, ...] = ()
    signal: int = 0

    def write(self, run: RunDirectory) -> None:
        """Leave the record in the run directory."""
        run.failures.mkdir(parents=True, exist_ok=True)
        write_atomically(run.failures / f"agent_{uuid4().hex[:8]}.json", json.dumps(asdict(self)))


@dataclass(frozen=True)
class Failures:
    """Everything that was recorded about how a run failed."""

    records: tuple[FailureRecord, ...]
    agent: AgentRecord

    def first(self) -> FailureRecord | WorkerDeath | None:
        """The root cause: not the earliest word, but the earliest that is not the echo of another failure.

        An exception of a worker's own comes first, by its time. A worker that was killed could leave no record, so a
        death by signal without one comes next. Workers that lost their peers come last.
        """
        own = [record for record in self.records if not record.peer_is_gone]
        spoke = {record.rank for record in self.records}
        in_vain = any(record.gave_up for record in self.records)
        killed = [
            replace(death, waited_for=in_vain and death.exit_code == -signal.SIGKILL)
            for death in self.agent.deaths
            if death.rank not in spoke and death.exit_code != -signal.SIGTERM
        ]
        likely: list[FailureRecord | WorkerDeath] = [*_by_time(own), *killed]
        echoes: list[FailureRecord | WorkerDeath] = [*_by_time(self.records), *self.agent.deaths]
        return next(iter([*likely, *echoes]), None)


def _by_time(records: Iterable[FailureRecord]) -> list[FailureRecord]:
    return sorted(records, key=lambda record: record.time_ns)


def read_failures(run: RunDirectory) -> Failures:
    """The failure records of a run directory; none if nothing failed."""
    records = [FailureRecord(**_json(path)) for path in sorted(run.failures.glob("rank_*.json"))]
    agents = [_json(path) for path in sorted(run.failures.glob("agent_*.json"))]
    deaths = sorted((WorkerDeath(**death) for agent in agents for death in agent["deaths"]), key=lambda one: one.rank)
    stopped_by = max((agent["signal"] for agent in agents), default=0)
    return Failures(tuple(records), AgentRecord(tuple(deaths), stopped_by))


def _json(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded
