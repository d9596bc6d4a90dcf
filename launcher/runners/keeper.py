"""The parent of an agent: it outlives the launcher by a moment, so that nothing of the run outlives both.

The kernel gives it what has lost its parent, whatever environment and session that has. It ends all of it when the
agent has ended, or the launcher has, in whatever way.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from types import FrameType

from launcher.linux import adopt_orphans, end_descendants, end_with_parent

_UPLOADERS = "wandb-"  # what the names of W&B's programs begin with
_TO_UPLOAD = 10.0  # seconds that they get to end by themselves when the agent has ended
_HELPERS = 1.0  # seconds that anything else gets where the ranks were done, or asked to stop; it gets none otherwise
_KILLED = 1.0  # seconds that W&B's programs get when the agent or the launcher was killed
_ORDERLY = {0, *(128 + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))}  # exit codes


def command(alive: int, told: int, agent: Sequence[str]) -> list[str]:
    """The command that starts the keeper of an agent.

    Args:
        alive: the end to read of a pipe, whose other end is the launcher's alone: it is over when that is closed.
        told: the end to write of a pipe, through which the launcher is told the process id of the agent, and how it
            has ended.
        agent: the command of the agent.
    """
    return [sys.executable, "-m", "launcher.runners.keeper", str(alive), str(told), *agent]


def main(arguments: Sequence[str]) -> None:
    """Start the agent, wait for its end or that of the launcher, and end all that is left."""
    alive, told, agent = int(arguments[0]), int(arguments[1]), arguments[2:]
    _leave_signals_to_others()
    adopt_orphans()
    woken = _woken_by_children()
    if select.select([alive], [], [], 0)[0]:
        return
    code = _run(agent, alive, told, woken)
    with suppress(OSError):  # nobody may listen any more
        os.write(told, f"{code}\n".encode())
    if code < 0:
        end_descendants(0.0, _UPLOADERS, _KILLED)
    else:
        end_descendants(_HELPERS if code in _ORDERLY else 0.0, _UPLOADERS, _TO_UPLOAD)


def _run(agent: Sequence[str], alive: int, told: int, woken: int) -> int:
    """The exit code of the agent, negative for a signal; that of SIGKILL too where the launcher has ended first."""
    process = subprocess.Popen(
        agent,
        start_new_session=True,  # what is meant for the ranks reaches neither this process nor the launcher
        preexec_fn=partial(end_with_parent, parent=os.getpid()),  # one thread here, and two system calls there
    )
    with suppress(OSError):
        os.write(told, f"{process.pid}\n".encode())
    while True:
        ready, _, _ = select.select([alive, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            code = _reaped(process.pid)
            if code is not None:
                return code
        if alive in ready:
            os.killpg(process.pid, signal.SIGKILL)
            return -signal.SIGKILL


def _reaped(agent: int) -> int | None:
    """Clear away all that has ended; how the agent did, if it is among that."""
    found = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == agent:
                found = os.waitstatus_to_exitcode(ended[1])
    return found


def _leave_signals_to_others() -> None:
    """Those that ask to stop go through the launcher. The agent begins with those that are ignored, ignored.

    A batch system may send its warnings to all processes: torchrun would die of them, and leave its ranks behind.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _nothing)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _woken_by_children() -> int:
    """What can be read from as soon as a child has ended."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, _nothing)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


if __name__ == "__main__":
    main(sys.argv[1:])
