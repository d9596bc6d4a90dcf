"""Ranks that hang without an error: found, named, and the run goes on; ranks that are only slow are left alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launcher.rundir.generation import read_generation
from launcher.rundir.heartbeat import Beat, read_beats
from launcher.rundir.layout import RunDirectory
from tests.faults.table import Kind
from tests.processes import launcher, wait_until

TINY = "tests/tasks/tiny.yaml"
UPDATES = 12
HEARTBEAT = 2.0


def run(runs: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    usual = (f"train.updates={UPDATES}", "checkpoint.every=2", f"guard.heartbeat={HEARTBEAT}")
    return launcher("run", TINY, *usual, *settings, "--runs", str(runs), "--run-id", "it")


def fault(runs: Path, what: str, rank: int) -> tuple[str, ...]:
    """It happens in the first micro-step of two of update 6, once."""
    once = f"task.args.once={runs / 'happened'}"
    return (f"task.args.fault={what}", f"task.args.rank={rank}", "task.args.at=11", once)


def rows(runs: Path) -> list[int]:
    """The updates in the run's metrics.jsonl."""
    try:
        lines = (runs / "it" / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line)["train/global_step"] for line in lines if line.endswith("}")]


def begun_again(runs: Path) -> bool:
    """Whether the run is in its second launch; rows of updates to be made again are cut before it begins."""
    return read_generation(RunDirectory(runs / "it")) == 2


def went_to_its_end(runs: Path, done: subprocess.CompletedProcess[str]) -> bool:
    """Whether it did, with each update made once."""
    assert done.returncode == 0, done.stdout + done.stderr
    return rows(runs) == list(range(1, UPDATES + 1))


@pytest.mark.fault(
    Kind.HANG,
    "a rank is stopped",
    by="SIGSTOP",
    outcome="it is named and killed after the heartbeat; the run goes on within the heartbeat and 10 s",
)
@pytest.mark.parametrize(("rank", "method"), [(1, "torchrun"), pytest.param(0, "accelerate", marks=pytest.mark.long)])
def test_a_stopped_rank_is_named_and_the_run_goes_on(
    runs: Path, rank: int, method: str, recovered: Callable[[float], None]
) -> None:
    """The next launch begins within the heartbeat and five seconds; its ranks then take as long as any to start."""
    began = time.time()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run, runs, *fault(runs, "sigstop", rank), f"launch.method={method}")
        wait_until(lambda: bool(rows(runs)) or running.done(), seconds=100)
        started = time.time() - began
        wait_until(lambda: (begun_again(runs) and len(rows(runs)) > 4) or running.done(), seconds=100)
        goes_on = time.time()
        done = running.result()
    stopped = (runs / "happened").stat().st_mtime
    assert (runs / "it" / ".generation").stat().st_mtime - stopped < HEARTBEAT + 5
    found = rf"launcher: Rank {rank} failed in update 6: Hang: no sign of life for \d s: its process was stopped"
    assert re.match(found, done.stderr)
    assert "going on after update 4" in done.stdout
    assert done.stderr.count("failed") == 1
    assert went_to_its_end(runs, done)
    recovered(goes_on - stopped)
    if method == "accelerate":  # with the long tests; on a machine so busy that a start takes longer, that is the bound
        assert goes_on - stopped < HEARTBEAT + max(10, started + 2)


@pytest.mark.fault(
    Kind.HANG,
    "a rank is stopped as it starts, or torchrun itself is",
    by="SIGSTOP as soon as the process is there, or has made an update",
    outcome="it is named and killed after the heartbeat; the run goes on if it has a checkpoint",
)
@pytest.mark.long
@pytest.mark.parametrize("victim", ["rank", "agent"])
def test_a_process_that_is_stopped_as_it_starts_or_is_no_rank_is_named(runs: Path, victim: str) -> None:
    """A rank has its first heartbeat before it imports torch."""
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run, runs, *(() if victim == "rank" else fault(runs, "compute", 0)))
        if victim == "rank":
            wait_until(lambda: bool(beats(runs)), seconds=100)
            pid = beats(runs)[-1].pid
        else:
            wait_until(lambda: bool(rows(runs)), seconds=100)
            pid = parent_of(beats(runs)[-1].pid)
        os.kill(pid, signal.SIGSTOP)
        done = running.result()
    cause = {"rank": "Rank", "agent": "No rank failed, but torchrun or accelerate did: Hang"}[victim]
    assert done.stderr.startswith(f"launcher: {cause}"), done.stderr
    assert "its process was stopped, as by SIGSTOP" in done.stderr
    assert done.stderr.count("launcher:") == 1
    if victim == "rank":
        assert done.returncode == 3  # nothing was made yet that another try could go on from
    else:
        assert went_to_its_end(runs, done)


def beats(runs: Path) -> list[Beat]:
    return read_beats(RunDirectory(runs / "it"))


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.fault(
    Kind.HANG,
    "a rank holds the lock of its Python for ever, and does nothing",
    by="C code that never returns",
    outcome="it is named and killed after the heartbeat; the run goes on from the last checkpoint",
)
@pytest.mark.long
@pytest.mark.parametrize("what", ["lock", "doze"])
def test_a_rank_that_is_locked_up_is_named(runs: Path, what: str) -> None:
    """It holds Python's own lock for ever, and does nothing; or until it is asked for its stack."""
    done = run(runs, *fault(runs, what, 1))
    assert "Rank 1 failed in update 6: Hang: no sign of life for 2 s: its process does nothing" in done.stderr
    assert went_to_its_end(runs, done)


@pytest.mark.fault(
    Kind.HANG,
    "a rank waits for what never comes",
    by="an event that nobody sets",
    outcome="it is named and its stack logged after guard.stall; the run goes on from the last checkpoint",
)
@pytest.mark.long
@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_rank_that_waits_for_ever_is_named_with_its_stack(runs: Path, rank: int) -> None:
    """It beats still, and so do the ranks that wait for it: it is the one that is furthest behind."""
    done = run(runs, *fault(runs, "wait", rank), "guard.stall=4")
    found = f"Rank {rank} failed in update 6: Hang: no progress for 4 s; the other ranks wait for it"
    assert found in done.stderr
    (log,) = (runs / "it" / "logs").glob(f"rank_{rank}.log.*")
    assert "in break_down" in log.read_text()
    assert went_to_its_end(runs, done)


@pytest.mark.fault(
    Kind.HANG,
    "a rank computes, or opens its data, for longer than the heartbeat",
    by="C code that lets no thread of Python go on",
    outcome="it is left alone",
)
@pytest.mark.long
@pytest.mark.parametrize("fault", ["task.args.fault=compute", "task.entry=tiny.py:SlowToStart"])
def test_a_rank_that_is_busy_or_starts_slowly_is_left_alone(runs: Path, fault: str) -> None:
    """For twice the heartbeat no thread of Python goes on in it."""
    done = run(runs, fault, "task.args.rank=1", "task.args.at=11")
    assert done.stderr == ""
    assert went_to_its_end(runs, done)


@pytest.mark.long
def test_nothing_is_watched_where_that_is_switched_off(runs: Path) -> None:
    """The ranks that wait then give up after their own time."""
    off = ("guard.heartbeat=0", "guard.stall=0", "parallel.timeout=4", "launch.restarts=0")
    done = run(runs, *fault(runs, "wait", 1), *off)
    assert done.returncode == 3
    assert "Hang" not in done.stderr
