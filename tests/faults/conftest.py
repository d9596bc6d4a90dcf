"""What the tests of faults share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import Run
from tests.processes import processes_with


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Run]:
    """A run to be disturbed; when a test is done, no process knows its folder any more."""
    yield Run(tmp_path)
    left = list(processes_with(str(tmp_path)))
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nothing was done to."""
    run = Run(tmp_path_factory.mktemp("whole"))
    done = run.launch()
    assert done.returncode == 0, done.stdout + done.stderr
    return run
