"""Runs a launch on this machine."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from contextlib import suppress
from uuid import uuid4

from launcher.launch.spec import LaunchSpec
from launcher.linux import EndsMarked, adopt_orphans, descendants_of, end_descendants
from launcher.rundir.layout import RunDirectory
from launcher.runners import keeper
from launcher.runners.launch_files import write_files

_MARK = "LAUNCHER_LAUNCH"  # in the environment of every process of a launch
_WITHOUT_LAUNCHER = 1.0  # seconds that processes get to end by themselves when the launcher was killed


class LocalRunner:
    """Starts the agent (torchrun, accelerate) and its keeper, which is a child of this process."""

    def start(self, spec: LaunchSpec, run: RunDirectory) -> LocalHandle:
        """Write the files of the launch and start it; its own output goes to logs/agent.log."""
        write_files(spec.files)
        run.logs.mkdir(exist_ok=True)
        mark = uuid4().hex
        ends = EndsMarked(f"{_MARK}={mark}", _WITHOUT_LAUNCHER)  # before the agent: it is none of the run
        before = descendants_of(os.getpid())
        adopt_orphans()  # a keeper may be killed too
        (alive, ours), (told, theirs) = os.pipe(), os.pipe()
        with run.agent_log.open("a") as log:
            process = subprocess.Popen(
                keeper.command(alive, theirs, spec.argv),
                env={**os.environ, **spec.env, _MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(alive, theirs),
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
            )
        os.close(alive)
        os.close(theirs)
        return LocalHandle(process, ours, told, before, ends)


class LocalHandle:
    """An agent and its workers on this machine.

    Args:
        keeper: the parent of the agent.
        alive: a descriptor; the keeper ends all when it is closed.
        told: a descriptor from which the keeper's words are read.
        spare: descendants of this process that are not of the run.
        ends: kills what is left of the run when this process is killed.
    """

    def __init__(
        self, keeper: subprocess.Popen[bytes], alive: int, told: int, spare: frozenset[int], ends: EndsMarked
    ) -> None:
        self._keeper = keeper
        self._alive = alive
        self._told = told
        self._spare = spare
        self._ends = ends
        self._code: int | None = None
        self._words = b""
        self._listen(None)
        first = self._words.split()
        self._agent = int(first[0]) if first else keeper.pid

    @property
    def agent(self) -> int:
        """The process of the agent."""
        return self._agent

    def wait(self, seconds: float) -> int | None:
        """Wait for the agent; its exit code, or None while it runs."""
        if self._code is None:
            self._listen(seconds)
        return self._code

    def _listen(self, seconds: float | None) -> None:
        """Take what the keeper says next, if it says something in time: the agent's number, then its exit code."""
        if not select.select([self._told], [], [], seconds)[0]:
            return
        said = os.read(self._told, 256)
        self._words += said
        words = self._words.split()
        if len(words) > 1:
            self._code = int(words[1])
        elif not said:
            self._code = -signal.SIGKILL  # the keeper is gone, and the agent with it

    def stop(self, signal_number: int) -> None:
        """Signal the agent, which signals its workers."""
        if self.wait(0) is None:
            with suppress(ProcessLookupError):  # it has ended just now
                os.killpg(self._agent, signal_number)

    def kill(self) -> None:
        """Kill the agent; the kernel kills its workers with it."""
        self.stop(signal.SIGKILL)

    def close(self) -> None:
        """Kill what still runs, and wait until nothing of the run is left."""
        os.close(self._alive)
        self._keeper.wait()
        os.close(self._told)
        end_descendants(0.0, spare=self._spare)  # what a keeper that was killed has left
        self._ends.now()
