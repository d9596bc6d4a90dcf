"""torchrun, accelerate and Ray Train, run in this process so that what they know when they end is not lost.

Both exit with 1 whatever happened. This program starts them as their own commands would, leaves a record of which
worker died how, and exits with a code that says it: 128 + the signal that stopped it, or the first worker's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

from launcher.errors import ExitCode, LauncherError
from launcher.linux import descendants_of
from launcher.rundir.failure import AgentRecord, WorkerDeath, release, reserve_for_agent
from launcher.rundir.layout import RunDirectory
from launcher.worker.pasted import take_over_if_pasted

_MODULE = "launcher.worker.agent"


def main(arguments: Sequence[str]) -> int:
    """Run `torchrun ...`, `accelerate launch ...` or `ray ...`.

    Args:
        arguments: the command, its name first.

    Returns:
        The exit code.
    """
    try:
        take_over_if_pasted(_MODULE, arguments)
    except LauncherError as error:
        print(f"launcher: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"launcher: {error.filename}: {error.strerror}.", file=sys.stderr)
        return ExitCode.REQUEST
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Until torchrun has handlers of its own; accelerate with one process never has, and would die too early.
        signal.signal(number, _wait_for_workers)
    start = {"torchrun": _torchrun, "accelerate": _accelerate, "ray": _ray}[arguments[0]]
    run = RunDirectory.from_environ(os.environ)
    place = reserve_for_agent(run)
    code, record = _outcome(lambda: start(arguments))
    if code:
        with suppress(OSError):  # a disk that fails is no other end than the one that it had
            record.write(run, place)
    else:
        release(place)
    return code


def _outcome(start: Callable[[], None]) -> tuple[int, AgentRecord]:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        start()
    except SignalException as stopped:
        return 128 + stopped.sigval, AgentRecord(signal=int(stopped.sigval))
    except ChildFailedError as failed:
        deaths = [WorkerDeath(rank, failure.exitcode) for rank, failure in sorted(failed.failures.items())]
        return _shell_code(deaths[0].exit_code), AgentRecord(tuple(deaths))
    except subprocess.CalledProcessError as failed:
        return _shell_code(failed.returncode), AgentRecord((WorkerDeath(0, failed.returncode),))
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        return code, AgentRecord()
    return 0, AgentRecord()


def _torchrun(arguments: Sequence[str]) -> None:
    from torch.distributed import run

    run.run(run.parse_args(arguments[1:]))  # type: ignore[no-untyped-call]  # torch leaves both untyped


def _accelerate(arguments: Sequence[str]) -> None:
    from accelerate.commands.accelerate_cli import main as accelerate_main

    sys.argv = list(arguments)
    accelerate_main()


def _ray(arguments: Sequence[str]) -> None:
    from launcher.worker.ray_agent import run_on_ray

    run_on_ray(arguments[1:], RunDirectory.from_environ(os.environ))


def _wait_for_workers(number: int, frame: FrameType | None) -> None:
    """Go on if there is a worker, which was sent the signal too and whose end is waited for; else end."""
    if not descendants_of(os.getpid()):
        os._exit(128 + number)


def _shell_code(exit_code: int) -> int:
    return exit_code if exit_code >= 0 else 128 - exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
