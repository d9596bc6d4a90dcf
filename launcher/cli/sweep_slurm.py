"""The runs of a sweep as an array of jobs for Slurm, as the user sees it."""

from __future__ import annotations

from launcher.cli.output import lasting_console
from launcher.cli.run_here import shown_path
from launcher.cli.sweep_request import PlannedRun, Sweep
from launcher.errors import ExitCode, RequestError
from launcher.launch.slurm_array import slurm_array
from launcher.launch.slurm_fit import refuse_folder
from launcher.launch.submission import Submission
from launcher.recipe.files import without_dots
from launcher.rundir.layout import RunDirectory
from launcher.runners import slurm
from launcher.runners.new_run import create_run_directory, has_begun
from launcher.runners.not_taken import as_before_unless_taken
from launcher.runners.resume import has_changed, is_done
from launcher.runners.runs_option import runs_option
from launcher.words import plural


def preview_array(sweep: Sweep, at_once: int | None) -> str:
    """What would be submitted, as shell commands that do the same when pasted; a comment where nothing is left to do.

    Args:
        sweep: the sweep, planned for the machines of the cluster.
        at_once: how many runs may run at the same time.

    Raises:
        RequestError: the runs cannot be one array, or a recipe is not the one that its run was begun with.
        SlurmError: a run has a job, and Slurm does not say how that stands.
    """
    left, _ = _left(sweep)
    return _array(left, sweep, at_once).as_shell() if left else f"# done: all of {plural(len(sweep.runs), 'run')}"


def submit_array(sweep: Sweep, at_once: int | None) -> int:
    """Submit the runs that are not done and have no job; the exit code.

    Args:
        sweep: the sweep, planned for the machines of the cluster.
        at_once: how many runs may run at the same time.

    Raises:
        RequestError: the runs cannot be one array, or a recipe is not the one that its run was begun with.
        RunDirectoryUnusableError: a directory cannot be made.
        SlurmError: Slurm is not there, or does not take the array.
        PerhapsTakenError: Slurm may have taken it, and has not said what it calls it.
    """
    console = lasting_console(soft_wrap=True)
    left, sentences = _left(sweep)
    for sentence in sentences:
        console.print(sentence, markup=False)
    if not left:
        console.print("nothing is left to submit (--results shows how the runs stand)")
        return ExitCode.DONE
    array = _array(left, sweep, at_once)
    made = [folder for folder in sweep.folder.absolute().parents if not folder.exists()]
    with as_before_unless_taken([*(one.directory.path for one in left), sweep.folder, *made]) as files:
        files.remember(array.files)
        directories = [create_run_directory(sweep.folder, one.run.run_id, fresh=False) for one in left]
        jobs = slurm.submit_array(array, directories)
    for one, job in zip(left, jobs, strict=True):
        console.print(f"job: {job.number}  {one.run.run_id}", markup=False)
    there, first = runs_option(sweep.folder), jobs[0].number
    all_of_them = first.partition("_")[0]
    ask = f"launcher status{there}, launcher logs {first}{there}, launcher cancel {all_of_them}{there}"
    console.print(f"runs: {shown_path(sweep.folder.absolute())} ({ask})", markup=False)
    return ExitCode.DONE


def _array(left: list[PlannedRun], sweep: Sweep, at_once: int | None) -> Submission:
    refuse_folder(sweep.folder.absolute())
    planned = [(one.request.plan, RunDirectory(without_dots(one.directory.path))) for one in left]
    return slurm_array(planned, at_once)


def _left(sweep: Sweep) -> tuple[list[PlannedRun], list[str]]:
    """The runs to submit, and why others are not among them."""
    left, sentences = list[PlannedRun](), list[str]()
    for one in sweep.runs:
        job = slurm.Job.of(one.directory)
        state = job.state() if job is not None else None
        if job is not None and state is not None and state.active:
            sentences.append(f"has job {job.number}, {state}: {one.run.run_id}")
            continue
        try:
            changed = has_begun(one.directory) and has_changed(one.directory, one.request.plan, fork=False)
        except RequestError as error:
            raise error.located({"": one.run.run_id}) from None
        if is_done(one.directory) and not changed:
            sentences.append(f"done: {one.run.run_id}")
        else:
            left.append(one)
    return left, sentences
