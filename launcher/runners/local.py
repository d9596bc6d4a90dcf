"""Runs a launch on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial
from uuid import uuid4

from launcher.launch.spec import LaunchSpec
from launcher.linux import EndsMarked, adopt_orphans, descendants_of, end_descendants, end_with_parent
from launcher.rundir.layout import RunDirectory, write_atomically

_MARK = "LAUNCHER_LAUNCH"  # in the environment of every process of a launch
_WITHOUT_LAUNCHER = 1.0  # seconds that processes get to end by themselves when the launcher was killed
PATIENCE = 10.0  # seconds that helpers of a rank (W&B's uploader) get to end by themselves once it is gone


class LocalRunner:
    """Starts the agent (torchrun, accelerate) as a child of this process."""

    def start(self, spec: LaunchSpec, run: RunDirectory) -> LocalHandle:
        """Write the files of the launch and start it; its own output goes to logs/agent.log."""
        for path, text in spec.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text, lasting=True)
        run.logs.mkdir(exist_ok=True)
        mark = uuid4().hex
        ends = EndsMarked(f"{_MARK}={mark}", _WITHOUT_LAUNCHER)  # before the agent: it is none of the run
        before = descendants_of(os.getpid())
        adopt_orphans()
        with run.agent_log.open("a") as log:
            process = subprocess.Popen(
                spec.argv,
                env={**os.environ, **spec.env, _MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
                preexec_fn=partial(_begin, os.getpid()),  # one thread here, and three system calls there
            )
        return LocalHandle(process, before, ends)


def _begin(launcher: int) -> None:
    """End with the launcher; and let it alone answer the warnings of a batch system, which may go to all processes.

    torchrun would die of them, and leave its ranks behind.
    """
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(parent=launcher)


class LocalHandle:
    """An agent and its workers on this machine.

    Args:
        process: the agent, the leader of its own session.
        spare: descendants of this process that are not of the run.
        ends: kills what is left of the run when this process is killed.
    """

    def __init__(self, process: subprocess.Popen[bytes], spare: frozenset[int], ends: EndsMarked) -> None:
        self._process = process
        self._spare = spare
        self._ends = ends

    @property
    def agent(self) -> int:
        """The process of the agent."""
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """Wait for the agent; its exit code, or None while it runs."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, signal_number: int) -> None:
        """Signal the agent, which signals its workers."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal_number)

    def kill(self) -> None:
        """Kill the agent; the kernel kills its workers with it."""
        self.stop(signal.SIGKILL)

    def close(self) -> None:
        """Kill what still runs, and wait until nothing of the run is left."""
        if self._process.poll() is None:
            self.kill()
            self._process.wait()
        end_descendants(PATIENCE, self._spare)
        self._ends.now()
