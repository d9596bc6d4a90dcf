"""A launch without a launcher: the command of a dry run, pasted into a shell. Its agent takes the run over itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from launcher.errors import RunDirectoryHeldError
from launcher.plan.plan_file import read_plan
from launcher.rundir.generation import VARIABLE, read_generation, take_over
from launcher.rundir.layout import PASTED, RunDirectory
from launcher.rundir.lock import held


def take_over_if_pasted(module: str, arguments: Sequence[str]) -> None:
    """Begin this program again as a launch that has the run, where nobody has taken the run over for it.

    Args:
        module: this program.
        arguments: its arguments.

    Raises:
        LauncherError: another launch holds the run, or the plan cannot be read.
        OSError: the directory cannot be written.
    """
    if VARIABLE in os.environ:
        return
    with claimed(RunDirectory.from_environ(os.environ)) as (lock, environment):
        os.set_inheritable(lock, True)  # the run is held for as long as the program goes on
        os.execve(sys.executable, [sys.executable, "-m", module, *arguments], {**os.environ, **environment})


@contextmanager
def claimed(run: RunDirectory) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Hold a run, with the files in place that were pasted for it; until then the files of who holds it are left.

    The command of a run on several machines is pasted on each. They hold it together, and none replaces another.

    Args:
        run: its directory.

    Returns:
        The descriptor of the lock, and the variables that workers are to be told.

    Raises:
        RunDirectoryHeldError: another launch holds it.
        RunDirectoryUnusableError: the plan cannot be read, or nothing can be written there.
    """
    pasted = run.plan.with_name(run.plan.name + PASTED)
    several = read_plan(pasted if pasted.exists() else run.plan).recipe.launch.machines.most > 1
    try:
        with held(run, shared=several) as lock:
            for file in run.path.glob(f"*{PASTED}"):
                file.replace(file.with_name(file.name.removesuffix(PASTED)))
            yield lock, {VARIABLE: str(read_generation(run) if several else take_over(run))}
    except RunDirectoryHeldError:
        for file in run.path.glob(f"*{PASTED}"):
            file.unlink(missing_ok=True)
        raise
