"""Which of several failures is the cause."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.rundir.failure import (
    AgentRecord,
    FailureRecord,
    Failures,
    WorkerDeath,
    read_failures,
    release,
    release_rank,
    reserve_for_agent,
    reserve_for_rank,
)
from launcher.rundir.heartbeat import Beat, BeatFile
from launcher.rundir.layout import RunDirectory
from launcher.rundir.status import RunStatus
from launcher.runners.outcome import cut_short, outcome_of
from tests.faults.table import Kind


def record(rank: int, time_ns: int, message: str = "bad pixel") -> FailureRecord:
    return FailureRecord(rank, time_ns, "RuntimeError", message, update=4)


OWN_EARLY, OWN_LATE = record(0, 100), record(1, 200)
VICTIM = record(2, 50, "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711")
GAVE_UP = record(2, 50, "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv operation")
KILLED, TERMINATED, ABORTED = WorkerDeath(3, -9), WorkerDeath(4, -15), WorkerDeath(2, -6)


@pytest.mark.parametrize(
    ("records", "deaths", "cause"),
    [
        ((), (), None),
        ((OWN_LATE, OWN_EARLY), (), OWN_EARLY),
        ((VICTIM, OWN_LATE), (), OWN_LATE),
        ((VICTIM,), (KILLED,), KILLED),
        ((GAVE_UP,), (KILLED,), WorkerDeath(3, -9, waited_for=True)),
        ((GAVE_UP,), (WorkerDeath(3, -6),), WorkerDeath(3, -6)),
        ((VICTIM, OWN_LATE), (ABORTED,), OWN_LATE),
        ((VICTIM,), (TERMINATED, ABORTED), VICTIM),
        ((), (TERMINATED,), TERMINATED),
        ((), (WorkerDeath(0, 7),), WorkerDeath(0, 7)),
    ],
)
def test_the_cause_is_no_echo(
    records: tuple[FailureRecord, ...], deaths: tuple[WorkerDeath, ...], cause: FailureRecord | WorkerDeath | None
) -> None:
    assert Failures(records, AgentRecord(deaths)).first() == cause


def test_records_are_read_back(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    OWN_LATE.write(run)
    AgentRecord((KILLED,), signal=0).write(run)
    assert read_failures(run) == Failures((OWN_LATE,), AgentRecord((KILLED,)))


@pytest.mark.fault(
    Kind.DISK,
    "the disk is full when a rank dies, and stays full",
    by="ENOSPC for all that needs room",
    outcome="the rank is named, also in status.json; exit code 75 where there is a checkpoint, with the path",
)
def test_a_full_disk_does_not_hide_who_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(tmp_path)
    reserve_for_rank(run, 1)
    reserve_for_rank(run, 2)
    place = reserve_for_agent(run)
    RunStatus("running").write(run)
    assert read_failures(run) == Failures((), AgentRecord())
    long = record(1, 100, "bad pixel " + "é" * 100_000)

    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        if "w" in mode or "a" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opening(path, mode, **options)

    opening = Path.open
    monkeypatch.setattr(Path, "open", full)
    long.write(run)
    AgentRecord((KILLED,)).write(run, place)
    failed = outcome_of(1, False, run, update=3, samples_seen=48)
    assert failed.cause.startswith("Rank 1 failed in update 4: RuntimeError: bad pixel éé")
    assert read_failures(run).agent == AgentRecord((KILLED,))
    (run.checkpoints / "step_00000002").mkdir(parents=True)
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/.generation")
    outcome = cut_short(failed, error, run)
    assert outcome.cause == "The run could not be started again: /disk/.generation: No space left on device."
    assert (outcome.exit_code, outcome.again) == (75, False)
    status = RunStatus.read(run)
    assert status is not None
    assert status.failure is not None
    assert (status.state, status.exit_code, status.failure.rank) == ("failed", 75, 1)


def test_room_for_records_that_was_not_needed_is_given_back(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for rank in (0, 1):
        reserve_for_rank(run, rank)
    release(reserve_for_agent(run))
    release_rank(run, 0)
    assert [path.name for path in run.failures.iterdir()] == ["rank_1.json"]
    release_rank(run, 1)
    assert not run.failures.exists()


@pytest.mark.parametrize("message", ["", " \n ", "first\nsecond"])
def test_any_message_makes_a_paragraph(tmp_path: Path, message: str) -> None:
    run = RunDirectory(tmp_path)
    record(0, 1, message).write(run)
    outcome = outcome_of(1, False, run, update=3, samples_seen=48)
    said = "first" if message.startswith("first") else "no message"
    assert outcome.cause == f"Rank 0 failed in update 4: RuntimeError: {said}. Its log: {run.rank_log(0)}"
    assert outcome.exit_code == 3


@pytest.mark.parametrize(("echo", "memory"), [(VICTIM, True), (GAVE_UP, False)])
def test_a_rank_that_was_killed_for_its_silence_did_not_lack_memory(
    tmp_path: Path, echo: FailureRecord, memory: bool
) -> None:
    """Where a rank dies, the others miss it at once; where they waited in vain, it was killed for that."""
    run = RunDirectory(tmp_path)
    echo.write(run)
    AgentRecord((KILLED,)).write(run)
    cause = outcome_of(1, False, run, update=3, samples_seen=48).cause
    assert cause.startswith("Rank 3 ")
    assert ("ran out of memory" in cause) == memory
    assert ("did not answer" in cause) == (not memory)


@pytest.mark.fault(
    Kind.PROCESS,
    "a rank leaves with exit code 0 while the others wait",
    by="records and beats as it leaves them",
    outcome="it is the cause, and not those that waited",
)
@pytest.mark.parametrize(("agent_code", "records"), [(0, ()), (1, (VICTIM,))])
def test_a_rank_that_left_as_if_it_was_done_is_the_cause(
    tmp_path: Path, agent_code: int, records: tuple[FailureRecord, ...]
) -> None:
    """Its last beat is there still, with one of a rank that had got further; that of a rank that is done is not."""
    run = RunDirectory(tmp_path)
    for failed in records:
        failed.write(run)
    for rank, update in ((0, 0), (1, 4), (2, 5), (3, 5)):
        BeatFile(run, rank).write(Beat(rank, 1, 1, 1, update, "computing", 0.5))
    outcome = outcome_of(agent_code, False, run, update=3, samples_seen=48)
    assert outcome.status.failure is not None
    assert (outcome.exit_code, outcome.again, outcome.status.failure.rank) == (3, True, 1)
    assert "Rank 1 ended before its last update, as if it was done" in outcome.cause


def test_a_run_whose_ranks_are_all_done_is_done(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    beats = BeatFile(run, 0)
    beats.write(Beat(0, 1, 1, 1, 5, "computed", 1.0))
    beats.remove()
    BeatFile(run, 1).write(Beat(1, 1, 1, 1, 5, "ending", 1.0))
    assert outcome_of(0, False, run, update=5, samples_seen=80).status.state == "done"


@pytest.mark.parametrize(("checkpoint", "state", "code"), [(4, "preempted", 75), (0, "interrupted", 130)])
def test_a_run_that_was_stopped_can_go_on_from_any_checkpoint(
    tmp_path: Path, checkpoint: int, state: str, code: int
) -> None:
    """Not of that very update only: a second signal, a full disk or the end of the grace may keep it from that."""
    run = RunDirectory(tmp_path)
    if checkpoint:
        (run.checkpoints / f"step_{checkpoint:08d}").mkdir(parents=True)
    outcome = outcome_of(-9, True, run, update=6, samples_seen=96)
    assert (outcome.status.state, outcome.exit_code, outcome.status.update) == (state, code, 6)
