"""The runs of a sweep on this machine, one after another, and what came of each."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator

from launcher.cli.output import LastingOutput, lasting_console
from launcher.cli.run_here import RunChoice, run_here
from launcher.cli.sweep_changes import refuse_changed
from launcher.cli.sweep_request import PlannedRun, Sweep
from launcher.cli.sweep_table import print_results
from launcher.errors import ExitCode, LauncherError
from launcher.launch.deepspeed import refuse_missing_deepspeed
from launcher.runners.resume import has_changed, is_done

_STOPPED = (ExitCode.REQUEUE, ExitCode.INTERRUPTED)  # somebody has ended the run, and with it the sweep


def commands(sweep: Sweep) -> Iterator[str]:
    """The commands that do the same as the sweep, one for each run that is not done.

    Raises:
        RequestError: the recipe has changed since runs were begun.
    """
    refuse_changed(sweep.runs)
    for one in sweep.runs:
        words = ["launcher", "run", str(sweep.recipe), *one.overrides, "--runs", str(sweep.folder)]
        line = shlex.join([*words, "--run-id", one.run.run_id, "--resume", "auto"])
        yield f"# done: {line}" if is_done(one.directory) else line


def run_sweep(sweep: Sweep) -> int:
    """Run what is not done yet. A run that fails hinders no other; one that is stopped ends the sweep.

    Args:
        sweep: the sweep.

    Returns:
        0 when all runs are done, else the exit code of the run that was stopped, or of the first that failed.

    Raises:
        RequestError: the recipe has changed since runs were begun; none goes on.
    """
    refuse_changed(sweep.runs)
    console, codes, errors = lasting_console(soft_wrap=True), list[int](), dict[str, str]()
    for number, one in enumerate(sweep.runs, 1):
        settings = " ".join(f"{key}={value}" for key, value in one.run.varied.items()) or one.run.run_id
        console.print(f"[{number} of {len(sweep.runs)}] {settings}", markup=False)
        try:
            code = _run(sweep, one)
        except (LauncherError, OSError) as error:
            code = error.exit_code if isinstance(error, LauncherError) else ExitCode.WORKER
            errors[one.run.run_id] = " ".join(str(error).split())
            print(f"launcher: {error}", file=LastingOutput(sys.stderr))
        except KeyboardInterrupt:  # between two runs
            code = ExitCode.INTERRUPTED
        codes.append(code)
        console.print()
        if code in _STOPPED:
            break
    print_results(sweep, errors)
    stopped = [code for code in codes if code in _STOPPED]
    return next((code for code in (*stopped, *codes) if code), ExitCode.DONE)


def _run(sweep: Sweep, one: PlannedRun) -> int:
    plan = one.request.plan
    if is_done(one.directory) and not has_changed(one.directory, plan, fork=False):
        lasting_console(soft_wrap=True).print("done before", markup=False)
        return ExitCode.DONE
    refuse_missing_deepspeed(plan.recipe)
    return run_here(one.request, RunChoice(sweep.folder, one.run.run_id, resume=True))
