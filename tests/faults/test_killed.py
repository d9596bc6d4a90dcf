"""A launcher or an agent that is killed takes all of its job along: ranks, loading processes, W&B's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.table import Kind
from tests.processes import ROOT, clean_environment, processes_with, wait_until
from tests.runners.test_local import Started

pytestmark = pytest.mark.long
ALL_GONE = 2.0  # seconds


def programs(runs: Path) -> dict[int, str]:
    """What runs of a job: its processes but those that are ending, with their command lines."""
    found = {}
    for pid in processes_with(str(runs)):
        try:
            found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


@pytest.mark.fault(
    Kind.PROCESS,
    "the launcher or its agent (torchrun, accelerate) dies",
    by="SIGKILL",
    outcome="no process of the job lives after 2 s: no rank, no loading process, nothing of W&B (seconds: until then)",
)
@pytest.mark.parametrize("method", ["torchrun", "accelerate"])
@pytest.mark.parametrize("victim", ["launcher", "agent"])
def test_nothing_of_a_job_is_left(runs: Path, victim: str, method: str, recovered: Callable[[float], None]) -> None:
    settings = (f"launch.method={method}", "launch.restarts=0", "data.workers=2", "tracking.wandb.mode=offline")
    started = Started(runs, "hang", *settings, env={"WANDB_MODE": "offline"})
    launcher = started.process.pid
    alive = programs(runs)
    assert sum("launcher.worker.entry" in program for program in alive.values()) >= 2 + 4  # ranks, and two of each load
    assert any("wandb-core" in program for program in alive.values()), alive
    killed = time.monotonic()
    os.kill({"launcher": launcher, "agent": started.agent}[victim], signal.SIGKILL)
    wait_until(lambda: set(processes_with(str(runs))) <= {launcher})
    seconds = time.monotonic() - killed
    code = started.end().returncode
    assert code == {"launcher": -signal.SIGKILL, "agent": 3}[victim]
    assert seconds < ALL_GONE, alive
    recovered(seconds)


@pytest.mark.fault(
    Kind.PROCESS,
    "the launcher of a script dies that has started programs of its own",
    by="SIGKILL of the launcher; a child of a rank, and an orphan in a session of its own",
    outcome="no process of the job lives after 3 s",
)
def test_programs_that_a_script_has_started_end_too(runs: Path) -> None:
    told = runs / "told"
    (runs / "train.py").write_text(
        "import os, subprocess, sys, time\n"
        "subprocess.Popen(['sleep', '600'])\n"
        "subprocess.Popen(['sh', '-c', 'sleep 601 & echo'], start_new_session=True).wait()\n"
        f"open({str(told)!r}, 'w').close()\n"
        "time.sleep(600)\n"
    )
    (runs / "it.yaml").write_text(
        "name: it\nscript: {path: train.py}\nbatch: {global: 4, micro: 4}\n"
        "launch: {nproc_per_node: 1, device: cpu}\ntracking: {wandb: {mode: disabled}}\n"
    )
    command = [sys.executable, "-m", "launcher", "run", str(runs / "it.yaml"), "--runs", str(runs / "all")]
    process = subprocess.Popen(command, env=clean_environment(), cwd=ROOT)
    wait_until(told.exists, 60)
    wait_until(lambda: sum(program.startswith("sleep 60") for program in programs(runs).values()) == 2, 10)
    process.kill()
    process.wait()
    wait_until(lambda: not list(processes_with(str(runs))), 3)
