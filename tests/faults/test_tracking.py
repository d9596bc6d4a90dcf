"""W&B that is slow, broken or dead: the training does not wait for it, and `launcher sync` makes up for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.runs import UPDATES, Run
from tests.faults.table import Kind
from tests.processes import ROOT, clean_environment, launcher, processes_with, wait_until
from tests.wandb_server import WandbServer

KEY = "0123456789" * 4
ANSWER = 30.0  # seconds that the slow server takes for each
ONLINE = ("tracking.wandb.mode=online", "launch.nproc_per_node=1")


def environment(home: Path, url: str) -> dict[str, str]:
    return {"WANDB_MODE": "online", "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "HOME": str(home)}


def seconds(it: Run) -> float:
    """That the updates took, all of them."""
    lines = (it.path / "metrics.jsonl").read_text().splitlines()
    return sum(float(json.loads(line)["time/update"]) for line in lines)


@contextmanager
def black_hole() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        port.listen()
        yield f"http://127.0.0.1:{port.getsockname()[1]}"


def assert_sync_makes_up_for_it(it: Run, updates: int) -> None:
    with WandbServer() as server:
        done = launcher("sync", str(it.path), env=environment(it.runs, server.url))
        assert done.returncode == 0, done.stdout + done.stderr
        (run,) = server.runs.values()
    assert [row["train/global_step"] for row in run.rows()] == list(range(1, updates + 1))


@pytest.mark.fault(
    Kind.TRACKING,
    "W&B's server takes 30 s for each answer to a row",
    by="a stand-in on the loopback",
    outcome="no update waits for it, the run ends in time, and `launcher sync` uploads what is missing",
)
@pytest.mark.long
def test_a_slow_server(it: Run) -> None:
    """One answer alone takes more than all updates together."""
    with WandbServer(seconds=ANSWER) as server:
        done = it.launch(*ONLINE, env=environment(it.runs, server.url), timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(it.rows()) == UPDATES
    assert seconds(it) < ANSWER
    assert_sync_makes_up_for_it(it, UPDATES)


@pytest.mark.fault(
    Kind.TRACKING,
    "W&B's process dies",
    by="SIGKILL of wandb-core in a run",
    outcome="said once; the training goes on, metrics.jsonl is whole, `launcher sync` uploads what is missing",
)
@pytest.mark.long
def test_wandb_is_killed_in_a_run(it: Run) -> None:
    with WandbServer() as server:
        command = [
            sys.executable,
            "-m",
            "launcher",
            *it.arguments(*ONLINE, "train.updates=3000", "checkpoint.every=null"),
        ]
        env = clean_environment(**environment(it.runs, server.url))
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        killed = False
        deadline = time.monotonic() + 100
        while not killed and time.monotonic() < deadline:
            if (it.path / "metrics.jsonl").exists() and it.rows():
                found = subprocess.run(["pgrep", "-f", "wandb-core.*"], capture_output=True, text=True).stdout.split()
                mine = [int(pid) for pid in found if str(it.runs) in Path(f"/proc/{pid}/environ").read_text()]
                for pid in mine:
                    os.kill(pid, signal.SIGKILL)
                    killed = True
            time.sleep(0.01)
        out, err = process.communicate(timeout=200)
    assert killed
    assert (process.returncode, err) == (0, ""), out
    assert out.count("W&B: stopped, because") == 1
    assert [row["train/global_step"] for row in it.rows()] == list(range(1, 3001))
    assert_sync_makes_up_for_it(it, 3000)


@pytest.mark.fault(
    Kind.TRACKING,
    "W&B's processes are halted",
    by="SIGSTOP of wandb-core and its helper in an offline run, and never SIGCONT",
    outcome="no update waits for them; given up at the end, and said once; `launcher sync` uploads every row",
)
@pytest.mark.long
def test_wandb_is_halted_in_a_run(it: Run) -> None:
    """So many rows that the pipes to W&B are full long before the last."""
    updates = 4000
    offline = ("tracking.wandb.mode=offline", "launch.nproc_per_node=1", "checkpoint.every=null")
    command = [sys.executable, "-m", "launcher", *it.arguments(*offline, f"train.updates={updates}")]
    env = clean_environment(WANDB_MODE="offline", HOME=str(it.runs))
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (it.path / "metrics.jsonl").exists() and bool(it.rows()), 100)
    halted = [pid for pid in processes_with(str(it.runs)) if name_of(pid).startswith("wandb-")]
    for pid in halted:
        os.kill(pid, signal.SIGSTOP)
    before = len(it.rows())
    out, err = process.communicate(timeout=200)
    assert halted
    assert before < updates / 2
    assert (process.returncode, err) == (0, ""), out
    assert out.count("W&B: stopped, because it did not end within") == 1, out
    assert [row["train/global_step"] for row in it.rows()] == list(range(1, updates + 1))
    assert not list(processes_with(str(it.runs)))
    assert_sync_makes_up_for_it(it, updates)


def name_of(pid: int) -> str:
    """The name of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


@pytest.mark.fault(
    Kind.TRACKING,
    "`launcher sync` without its server",
    by="nobody listens; a listener that never answers",
    outcome="one sentence, exit code 3; metrics.jsonl stays as it is",
)
@pytest.mark.long
def test_sync_without_its_server(it: Run) -> None:
    assert it.launch("launch.nproc_per_node=1", "train.updates=2").returncode == 0
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        refuses = f"http://127.0.0.1:{port.getsockname()[1]}"
        with black_hole() as never_answers:
            for url in (refuses, never_answers):
                done = launcher("sync", str(it.path), env=environment(it.runs, url), timeout=100)
                assert (done.returncode, done.stdout) == (3, "")
                assert done.stderr.startswith("launcher: W&B cannot be used: "), done.stderr
                assert done.stderr.count("\n") == 1
