"""Runs a launch on this machine."""

from __future__ import annotations

import os
import signal
import subprocess

from launcher.launch.spec import LaunchSpec
from launcher.linux import adopt_orphans, descendants_of, end_descendants, end_with_parent
from launcher.rundir.layout import RunDirectory, write_atomically

PATIENCE = 10.0  # seconds that helpers of a rank (W&B's uploader) get to end by themselves once it is gone


class LocalRunner:
    """Starts the agent (torchrun, accelerate) as a child of this process."""

    def start(self, spec: LaunchSpec, run: RunDirectory) -> LocalHandle:
        """Write the files of the launch and start it; its own output goes to logs/agent.log."""
        for path, text in spec.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
        run.logs.mkdir(exist_ok=True)
        before = descendants_of(os.getpid())
        adopt_orphans()
        with run.agent_log.open("a") as log:
            process = subprocess.Popen(
                spec.argv,
                env={**os.environ, **spec.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
                preexec_fn=_begin,  # one thread here, and three system calls there
            )
        return LocalHandle(process, before)


def _begin() -> None:
    """End with the launcher; and let it alone answer the warnings of a batch system, which may go to all processes.

    torchrun would die of them, and leave its ranks behind.
    """
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


class LocalHandle:
    """An agent and its workers on this machine.

    Args:
        process: the agent, the leader of its own session.
        spare: descendants of this process that are not of the run.
    """

    def __init__(self, process: subprocess.Popen[bytes], spare: frozenset[int]) -> None:
        self._process = process
        self._spare = spare

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
