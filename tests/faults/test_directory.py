"""Run directories that others hold, held or left, and clocks and ports that are not what they should be."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import held
from launcher.runners.new_run import create_run_directory
from tests.faults.runs import Run, sample_of
from tests.faults.table import Kind
from tests.processes import clean_environment


@pytest.mark.fault(
    Kind.DIRECTORY,
    "a lock was left behind",
    by="a lock file that names a process which has its number again and holds nothing",
    outcome="taken over, for it is the kernel that knows who holds it",
)
def test_a_lock_that_nobody_holds_is_taken_over(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.lock.write_text(f"process {os.getppid()} on {socket.gethostname()}, and more that was there before")
    with held(run):
        assert run.lock.read_text() == f"process {os.getpid()} on {socket.gethostname()}"


@pytest.mark.fault(
    Kind.DIRECTORY, "two launches in the same second", by="the same name and time", outcome="a directory for each"
)
def test_two_launches_of_the_same_second_do_not_share(tmp_path: Path) -> None:
    made = [create_run_directory(tmp_path, "tiny-20260101-120000", fresh=True).path.name for _ in range(3)]
    assert made == ["tiny-20260101-120000", "tiny-20260101-120000-2", "tiny-20260101-120000-3"]


@pytest.mark.fault(
    Kind.DIRECTORY,
    "the number of threads changes between two launches",
    by="OMP_NUM_THREADS=1, then 2",
    outcome="a warning that the bits are others; with `train.determinism=exact` it is pinned to 1",
)
@pytest.mark.fault(
    Kind.WORLD,
    "the port of the ranks is held by somebody else",
    by="MASTER_PORT of a listener that never answers",
    outcome="another port is taken",
)
@pytest.mark.long
def test_other_threads_and_a_port_that_is_held(it: Run) -> None:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        port.listen()
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port.getsockname()[1])}
        assert it.launch("train.updates=2", env=address).returncode == 0
        status = it.path / "status.json"
        status.write_text(status.read_text().replace('"done"', '"interrupted"'))
        again = it.launch("train.updates=4", "--resume", "auto", "--fork", env={**address, "OMP_NUM_THREADS": "2"})
    assert again.returncode == 0, again.stderr
    assert "warning: the run goes on with 2 threads a rank, and had 1 before" in again.stdout
    assert len(it.rows()) == 4


def test_threads_are_pinned_where_bits_are_promised(it: Run) -> None:
    shown = it.launch("train.determinism=exact", "train.virtual_ranks=2", "--dry-run", env={"OMP_NUM_THREADS": "2"})
    assert "\n  OMP_NUM_THREADS=1 \\\n" in shown.stdout, shown.stdout + shown.stderr


def faketime() -> str:
    """The library that gives a process another clock; Debian's 0.9.10 lets no Python 3.11 sleep."""
    found = importlib.util.find_spec("libfaketime")
    folders = (found.submodule_search_locations or ()) if found else ()
    return str(next(library for folder in folders for library in Path(folder).rglob("libfaketime.so.1")))


@pytest.mark.fault(
    Kind.DIRECTORY,
    "the clock is wrong, and is set back in the middle of a run",
    by="a day ahead at the start, a day behind after some updates (libfaketime)",
    outcome="no effect",
)
@pytest.mark.long
def test_a_clock_that_is_set_back(it: Run, whole: Run) -> None:
    faults = it.faults({sample_of(9, rank=0, micro_step=1): "sets_the_clock_back"})
    clock = it.notes / "clock"
    clock.write_text("+1d")
    other = {
        "LD_PRELOAD": faketime(),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "0",
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    ask = [sys.executable, "-c", "import time; print(time.time())"]
    told = subprocess.run(ask, env={**clean_environment(), **other}, capture_output=True, text=True, check=True).stdout
    assert float(told) > time.time() + 80_000
    done = it.launch(*faults, env=other)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert clock.read_text() == "-1d"
    assert it.result() == whole.result()
