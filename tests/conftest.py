"""What all tests stand on."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.debian import need
from tests.processes import processes_with

pytest_plugins = ["tests.faults.table"]

# A test run in the background of a shell, or under nohup, ignores these, and so would all that it starts.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """A folder for runs; two seconds after a test, no process knows it any more."""
    yield tmp_path
    until = time.monotonic() + 2.0
    while (left := list(processes_with(str(tmp_path)))) and time.monotonic() < until:
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.fixture(scope="session")
def strace() -> None:
    """The program that makes system calls fail, or kills at them."""
    need("strace", lambda: shutil.which("strace") is not None)
