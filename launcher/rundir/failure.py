"""What a worker leaves behind when it fails, and which of several failures came first."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from launcher.rundir.layout import RunDirectory, write_atomically, write_over

# Stands in a rank's log above its traceback: the terminal shows what comes before it.
TRACEBACK_MARK = "--- this rank failed ---"

AGENT = -1  # stands where a rank would: torchrun or accelerate itself

# What torch raises in the other ranks when one is gone: true, and not the cause. A task's own trouble with a network
# has other types or other words.
_OF_THE_GROUP = ("DistBackendError", "DistNetworkError", "DistStoreError")
_GAVE_UP = ("timed out", "timeout")
_RESERVED = 4096  # bytes of a record's place: what a disk gives out at once
_SHORT = 400  # characters of a message that find room there, however they are written
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
        """Leave the record in the run directory; on a full disk in the place that was reserved for it.

        Raises:
            OSError: it cannot be written.
        """
        path = _place_of(run, self.rank)
        try:
            run.failures.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(asdict(self)))
        except OSError:
            write_over(path, json.dumps(asdict(replace(self, message=self.message[:_SHORT]))))


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

    def write(self, run: RunDirectory, place: Path | None = None) -> None:
        """Leave the record in the run directory.

        Args:
            run: the directory.
            place: what `reserve_for_agent` has returned.

        Raises:
            OSError: it cannot be written.
        """
        text = json.dumps(asdict(self))
        if place is not None and place.exists():
            write_over(place, text)
            return
        run.failures.mkdir(parents=True, exist_ok=True)
        write_atomically(_new_place(run), text)


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


def reserve_for_rank(run: RunDirectory, rank: int) -> None:
    """Take room on the disk for the record of a rank, should it fail: the disk may be full by then."""
    _reserve(_place_of(run, rank))


def reserve_for_agent(run: RunDirectory) -> Path:
    """As `reserve_for_rank`, for the record of an agent; its place."""
    place = _new_place(run)
    _reserve(place)
    return place


def release_rank(run: RunDirectory, rank: int) -> None:
    """Give the room for the record of a rank back: it has not failed."""
    release(_place_of(run, rank))


def release(place: Path) -> None:
    """Give the room for a record back."""
    with suppress(OSError):
        place.unlink(missing_ok=True)
        place.parent.rmdir()  # unless others have theirs there


def _reserve(place: Path) -> None:
    with suppress(OSError):  # then there is none
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(" " * _RESERVED)


def _place_of(run: RunDirectory, rank: int) -> Path:
    return run.failures / f"rank_{rank}.json"


def _new_place(run: RunDirectory) -> Path:
    return run.failures / f"agent_{uuid4().hex[:8]}.json"


def read_failures(run: RunDirectory) -> Failures:
    """The failure records of a run directory; none if nothing failed."""
    records = [FailureRecord(**told) for told in _told(run, "rank_*.json")]
    agents = _told(run, "agent_*.json")
    deaths = sorted((WorkerDeath(**death) for agent in agents for death in agent["deaths"]), key=lambda one: one.rank)
    stopped_by = max((agent["signal"] for agent in agents), default=0)
    return Failures(tuple(records), AgentRecord(tuple(deaths), stopped_by))


def _told(run: RunDirectory, pattern: str) -> list[dict[str, Any]]:
    """What the files hold of which there is something to read: most places are reserved in vain."""
    told: list[dict[str, Any]] = []
    for path in sorted(run.failures.glob(pattern)):
        with suppress(OSError, ValueError):
            told.append(json.loads(path.read_text(encoding="utf-8")))
    return told
