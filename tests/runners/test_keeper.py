"""What an agent has started ends with it and with the launcher, whatever its environment and session."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.launch.spec import LaunchSpec
from launcher.rundir.layout import RunDirectory
from launcher.runners.local import LocalHandle, LocalRunner
from tests.faults.table import Kind
from tests.processes import ROOT, clean_environment

GONE = 2.0  # seconds

# An agent whose child starts a helper without an environment in a session of its own, and is gone.
AGENT = 'sh -c "setsid env -i sleep 600 & echo \\$!"; '
STRAY = pytest.mark.fault(
    Kind.PROCESS,
    "a helper of a rank is left, without its environment and in a session of its own",
    by="SIGKILL of the launcher, of the agent, of its parent; the end of the agent",
    outcome="the helper is gone within 2 s",
)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    return run


def started(run: RunDirectory, program: str) -> LocalHandle:
    return LocalRunner().start(LaunchSpec(("sh", "-c", program), {}, {}), run)


def helper_of(run: RunDirectory) -> int:
    """A descriptor of the helper, by which its end can be waited for."""
    deadline = time.monotonic() + 60
    while not (run.agent_log.exists() and run.agent_log.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return os.pidfd_open(int(run.agent_log.read_text()))


def assert_gone(helper: int) -> None:
    try:
        assert select.select([helper], [], [], GONE)[0], "still running"
    finally:
        os.close(helper)


@pytest.mark.parametrize(
    ("program", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", -15), ("kill -KILL $$", -9)]
)
def test_the_code_of_the_agent_is_that_of_the_run(run: RunDirectory, program: str, code: int) -> None:
    handle = started(run, program)
    try:
        assert handle.wait(60) == code
        assert handle.wait(60) == code
    finally:
        handle.close()


def test_a_signal_reaches_the_agent(run: RunDirectory) -> None:
    handle = started(run, "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done")
    try:
        while not run.agent_log.read_text():
            assert handle.wait(0.05) is None
        assert handle.agent == int(Path(f"/proc/{handle.agent}/stat").read_text().split()[5])  # its own session
        handle.stop(signal.SIGTERM)
        assert handle.wait(60) == 5
    finally:
        handle.close()


@STRAY
@pytest.mark.parametrize("victim", ["agent", "parent", "nobody"])
def test_a_helper_ends_with_the_agent(run: RunDirectory, victim: str) -> None:
    seen = run.path / "seen"  # the helper has been, by the test
    end = f"while [ ! -e '{seen}' ]; do sleep 0.01; done; exit 3"
    handle = started(run, AGENT + (end if victim == "nobody" else "exec sleep 600"))
    try:
        helper = helper_of(run)
        seen.touch()
        parent = int(Path(f"/proc/{handle.agent}/stat").read_text().split()[3]) if victim == "parent" else 0
        if victim != "nobody":
            os.kill(parent or handle.agent, signal.SIGKILL)
        assert handle.wait(60) == (3 if victim == "nobody" else -signal.SIGKILL)
    finally:
        handle.close()
    assert_gone(helper)


LAUNCHER = """
import sys, time
from pathlib import Path
from launcher.launch.spec import LaunchSpec
from launcher.rundir.layout import RunDirectory
from launcher.runners.local import LocalRunner

handle = LocalRunner().start(LaunchSpec(("sh", "-c", sys.argv[2]), {}, {}), RunDirectory(Path(sys.argv[1])))
print(handle.agent, flush=True)
time.sleep(600)
"""


@STRAY
def test_a_helper_ends_with_the_launcher(run: RunDirectory) -> None:
    command = [sys.executable, "-c", LAUNCHER, str(run.path), AGENT + "exec sleep 600"]
    with subprocess.Popen(command, env=clean_environment(), cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        agent = os.pidfd_open(int(process.stdout.readline()))
        helper = helper_of(run)
        process.kill()
        assert_gone(helper)
        assert_gone(agent)


def test_what_uploads_gets_more_time_than_other_helpers(run: RunDirectory, tmp_path: Path) -> None:
    """W&B's rows are on their way when a rank has ended; anything else gets a second."""
    found = shutil.which("sleep")
    assert found is not None
    for name in ("wandb-core", "other"):
        shutil.copy(found, tmp_path / name)
    handle = started(run, f"{tmp_path}/wandb-core 4 & {tmp_path}/other 600 & exit 0")
    assert handle.wait(60) == 0
    began = time.monotonic()
    handle.close()
    assert 2.5 < time.monotonic() - began < 30
