"""A checkpoint is written; at each system call of it the writer is killed, or the disk fails."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.rundir.checkpoints import Checkpoints
from launcher.rundir.generation import take_over
from launcher.rundir.layout import RunDirectory
from launcher.rundir.manifest import MANIFEST
from tests.faults.table import Kind
from tests.faults.writer import NOT_SAVED, SAVED, content_of, save
from tests.processes import ROOT, clean_environment

pytestmark = pytest.mark.usefixtures("strace")

CHANGES = ("mkdir", "rename", "unlinkat", "rmdir", "write", "fsync")
CALLS = ",".join((*CHANGES, "openat", "ftruncate", "close", "read", "newfstatat", "fstat", "getdents64", "lseek"))
ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EACCES")
BEFORE, NEW = (1, 2), 3


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run with two good checkpoints and a row."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    take_over(run)
    run.metrics.write_text("{}\n")
    for update in BEFORE:
        save(run, update)
    return run


def traced(run: RunDirectory, *options: str) -> subprocess.CompletedProcess[str]:
    writer = [sys.executable, "-m", "tests.faults.writer", str(run.path), str(NEW)]
    command = ["strace", "-f", "--seccomp-bpf", *options, *writer]
    # Byte code is written by the first run and read by all others, so that they make the same calls.
    environment = clean_environment(PYTHONHASHSEED="0", PYTHONPYCACHEPREFIX=str(run.path.parent / "byte code"))
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def points(run: RunDirectory, log: Path) -> list[tuple[str, int]]:
    """Each system call that touches a file of the run: its name, and the how many-th of that name it is."""
    scratch = RunDirectory(run.path.with_name("scratch"))
    shutil.copytree(run.path, scratch.path)
    assert traced(scratch, "-o", "/dev/null", "-e", f"trace={CALLS}").returncode == 0
    shutil.rmtree(scratch.path)
    shutil.copytree(run.path, scratch.path)
    assert traced(scratch, "-y", "-o", str(log), "-e", f"trace={CALLS}").returncode == 0
    found, counts = [], Counter[str]()
    for line in log.read_text().splitlines():
        call = re.match(r"\d+\s+(\w+)\(", line)
        if call:
            counts[call[1]] += 1
            if str(scratch.path) in line:
                found.append((call[1], counts[call[1]]))
    return found


def each_fault(
    run: RunDirectory, log: Path, faults: tuple[str, ...], *changing: bool
) -> Iterator[tuple[str, RunDirectory, subprocess.CompletedProcess[str]]]:
    for call, number in points(run, log):
        if changing and (call in CHANGES) not in changing:
            continue
        for fault in faults:
            copy = RunDirectory(run.path.with_name(f"{call}-{number}-{fault.partition('=')[2]}"))
            shutil.copytree(run.path, copy.path)
            ended = traced(copy, "-o", "/dev/null", "-e", f"inject={call}:{fault}:when={number}")
            yield f"{fault} at {call} number {number}", copy, ended
            shutil.rmtree(copy.path)


def assert_nothing_lost(run: RunDirectory, what: str) -> None:
    """The old checkpoint or the new one is there, as it was written, and the next one can be written."""
    newest = Checkpoints(run, print).newest()
    assert newest is not None, what
    assert newest.update in (BEFORE[-1], NEW), what
    written = {path.name: path.read_bytes() for path in newest.folder.iterdir() if path.name != MANIFEST}
    assert written == content_of(newest.update), what
    assert save(run, NEW + 1), what
    after = Checkpoints(run, print).newest()
    assert after is not None, what
    assert after.update == NEW + 1, what
    left = sorted(path.name for path in run.checkpoints.iterdir() if path.name.startswith("."))
    assert left == [], what


@pytest.mark.fault(
    Kind.DISK,
    "the writer of a checkpoint dies",
    by="SIGKILL at each system call of the checkpoint (strace)",
    outcome="the checkpoint before or the new one is whole; the next one can be written",
)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("changing", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_writer_killed_at_any_system_call_loses_nothing(run: RunDirectory, tmp_path: Path, changing: bool) -> None:
    """The calls that change the disk, and the others."""
    outcomes = 0
    for what, killed, _ in each_fault(run, tmp_path / "log", ("signal=KILL",), changing):
        assert_nothing_lost(killed, what)
        outcomes += 1
    assert outcomes > 15


@pytest.mark.fault(
    Kind.DISK,
    "the disk fails while a checkpoint is written",
    by="ENOSPC, EIO, EDQUOT, EACCES at each system call of the checkpoint (strace)",
    outcome="the checkpoint before or the new one is whole; a warning; the training goes on",
)
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_disk_that_fails_at_any_system_call_loses_nothing(run: RunDirectory, tmp_path: Path) -> None:
    for what, failed, ended in each_fault(run, tmp_path / "log", tuple(f"error={error}" for error in ERRORS)):
        assert ended.returncode == 0, f"{what}: {ended.stderr}"
        assert ended.stdout.splitlines()[-1] in (SAVED, NOT_SAVED), what
        assert_nothing_lost(failed, what)
