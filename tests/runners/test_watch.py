"""Which rank is said to hang: beats of real processes, looked at as the launcher does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from launcher.recipe.schema import Recipe
from launcher.rundir.failure import FailureRecord
from launcher.rundir.heartbeat import Beat, BeatFile, Phase, read_beats
from launcher.rundir.layout import RunDirectory
from launcher.runners.outcome import outcome_of
from launcher.runners.watch import Limits, Watch

STALL = Limits(heartbeat=0, stall=1)


@pytest.fixture
def pids() -> Iterator[list[int]]:
    """Processes that wait."""
    with ExitStack() as stack:
        waiting = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        started = [stack.enter_context(subprocess.Popen(waiting, stdin=subprocess.PIPE)) for _ in range(3)]
        yield [process.pid for process in started]
        for process in started:
            process.kill()


def found(watch: Watch, seconds: float, agent: int = 0) -> FailureRecord | None:
    """What the watch finds in so many seconds."""
    deadline = time.monotonic() + seconds
    while (culprit := watch.hanging(agent or os.getpid())) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return culprit


def beat(run: RunDirectory, rank: int, pid: int, update: int, phase: Phase, share: float) -> None:
    BeatFile(run, rank).write(Beat(rank, pid, 1, 1, update, phase, share))


@pytest.mark.parametrize(
    ("standing", "culprit"),
    [
        ([(3, "computed", 1.0), (3, "computing", 1.0), (3, "computed", 0.5)], 1),
        ([(3, "computing", 0.5), (2, "evaluated", 1.0), (3, "computing", 0.5)], 1),
        ([(3, "evaluated", 1.0), (3, "evaluated", 1.0), (3, "evaluating", 1.0)], 2),
        ([(3, "computing", 0.4), (3, "computing", 0.2), (3, "computed", 1.0)], 1),
    ],
)
def test_the_rank_that_is_furthest_behind_is_the_cause(
    tmp_path: Path, pids: list[int], standing: list[tuple[int, Phase, float]], culprit: int
) -> None:
    run = RunDirectory(tmp_path)
    for rank, (pid, place) in enumerate(zip(pids, standing, strict=True)):
        beat(run, rank, pid, *place)
    record = found(Watch(run, STALL), 5)
    assert record is not None
    assert record.rank == culprit
    assert "the other ranks wait for it" in record.message


def test_ranks_that_start_or_have_ended_do_not_stall(tmp_path: Path, pids: list[int]) -> None:
    run = RunDirectory(tmp_path)
    beat(run, 0, pids[0], 0, "computing", 0.0)
    beat(run, 1, 2**22 + 1, 3, "computing", 0.5)  # no process has such a number
    assert found(Watch(run, STALL), 2) is None


def test_a_stopped_process_is_told_from_one_that_waits(tmp_path: Path, pids: list[int]) -> None:
    run = RunDirectory(tmp_path)
    for rank, pid in enumerate(pids[:2]):
        beat(run, rank, pid, 0, "computing", 0.0)
    watch = Watch(run, Limits(heartbeat=2))
    assert found(watch, 3) is None  # before the first update, one that waits may wait for a disk
    os.kill(pids[1], signal.SIGSTOP)
    record = found(watch, 3)
    assert record is not None
    assert (record.rank, record.update) == (1, 0)


def test_a_beat_that_is_half_written_is_no_news(tmp_path: Path, pids: list[int]) -> None:
    run = RunDirectory(tmp_path)
    beat(run, 0, pids[0], 1, "computing", 0.5)
    (run.heartbeats / "rank_1").write_text('{"rank": 1, "pi')
    assert [read.rank for read in read_beats(run)] == [0]


def test_a_stall_is_found_before_the_other_ranks_give_up() -> None:
    recipe = Recipe.model_validate({"name": "it", "parallel": {"timeout": 100.0}, "guard": {"stall": 500.0}})
    assert Limits.of(recipe, world_size=2).stall == pytest.approx(90)
    assert Limits.of(recipe, world_size=1).stall == 500
    assert Limits.of(recipe, world_size=2).saving == 500  # the others wait in nothing that they would give up


def test_a_rank_whose_disk_is_slow_gets_the_time_that_the_recipe_gives(tmp_path: Path, pids: list[int]) -> None:
    """It writes a checkpoint, and the ranks that are done with it wait in no collective."""
    run = RunDirectory(tmp_path)
    limits = Limits(heartbeat=2, stall=1, saving=4)
    beat(run, 0, pids[0], 3, "saving", 1.0)
    beat(run, 1, os.getpid(), 3, "saved", 1.0)
    watch = Watch(run, limits)
    began = time.monotonic()
    record = found(watch, 10)
    assert record is not None
    assert (record.rank, record.update) == (0, 3)
    assert record.message.startswith("no progress for 4 s")
    assert time.monotonic() - began >= 4


def test_an_agent_that_was_stopped_is_found(tmp_path: Path, pids: list[int]) -> None:
    run = RunDirectory(tmp_path)
    watch = Watch(run, Limits(heartbeat=2))
    assert found(watch, 0.6, pids[0]) is None
    os.kill(pids[0], signal.SIGSTOP)
    record = found(watch, 5, pids[0])
    assert record is not None
    record.write(run)
    cause = outcome_of(-9, False, run, update=3, samples_seen=48).cause
    assert cause.startswith("No rank failed, but torchrun or accelerate did: Hang: its process was stopped")


def test_a_rank_that_ends_does_not_stall_but_can_be_stopped(tmp_path: Path, pids: list[int]) -> None:
    run = RunDirectory(tmp_path)
    beat(run, 0, pids[0], 5, "ending", 1.0)
    assert found(Watch(run, STALL), 2) is None
    os.kill(pids[0], signal.SIGSTOP)
    record = found(Watch(run, Limits(heartbeat=2)), 5)
    assert record is not None
    assert record.rank == 0
