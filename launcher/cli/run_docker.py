"""A run in a container from the choice of its directory to its end, or to the id that Docker gives it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from launcher.cli.going_on import goes_on
from launcher.cli.output import lasting_console
from launcher.cli.request import Request, read_request
from launcher.cli.run_here import RunChoice, announce, chosen_directory, shown_path
from launcher.errors import ExitCode, Mistake, RequestError
from launcher.launch.docker import Container, docker_run
from launcher.launch.docker_fit import fit_image
from launcher.launch.submission import Submission
from launcher.rundir.layout import RunDirectory
from launcher.runners.docker import DockerError, host_user, run_attached, submit
from launcher.runners.new_run import fresh_id, refuse_no_name
from launcher.runners.place import Place
from launcher.runners.resume import is_done, unfinished_run
from launcher.runners.supervise import listening


def run_inside(
    image: str, path: Path, overrides: Sequence[str], choice: RunChoice, place: Place | None, *, dry_run: bool
) -> int:
    """Run a recipe in a container, or print what would be executed; the exit code.

    Args:
        image: the image.
        path: the recipe file.
        overrides: `key.path=value` strings, later ones winning.
        choice: which run it is.
        place: of this machine, if the command has given it one.
        dry_run: whether to print.

    Raises:
        LauncherError: as `run_container`.
    """
    if place is not None:
        raise RequestError(
            [Mistake("--in docker", "runs the ranks of one machine", "For several see docker/compose.yaml")]
        )
    request = read_request(path, overrides)
    if dry_run:
        print(preview_container(request, choice, image, detached=False).as_shell())
        return ExitCode.DONE
    return run_container(request, choice, image)


def preview_container(request: Request, choice: RunChoice, image: str | None, *, detached: bool) -> Submission:
    """The container that would be started, without making the directory of its run.

    Args:
        request: the recipe with its plan for this machine.
        choice: which run it is.
        image: the image that was named; None: the recipe names one.
        detached: whether Docker would keep it.

    Raises:
        RequestError: the recipe cannot run in a container.
    """
    name = request.plan.recipe.name
    run_id = choice.run_id or (unfinished_run(choice.runs, name) if choice.resume else None)
    run_id = run_id or fresh_id(name, datetime.now())
    refuse_no_name(run_id)
    return _container(request, choice, RunDirectory(choice.runs / run_id), image, detached=detached)


def run_container(request: Request, choice: RunChoice, image: str) -> int:
    """Run a recipe in a container, to its end; the exit code.

    Args:
        request: the recipe with its plan for this machine.
        choice: which run it is.
        image: the image.

    Raises:
        RequestError: the recipe cannot run in a container.
        RunDirectoryUnusableError: the directory cannot be made.
        DockerError: Docker is not there, or starts nothing.
    """
    _container(
        request, choice, RunDirectory(choice.runs / "id"), image, detached=False
    )  # refused before it leaves a folder
    run = chosen_directory(choice, request.plan.recipe.name)
    with listening() as signals, _withdrawn(run):
        lasting_console(soft_wrap=True).print(f"container: {image}")
        return run_attached(_container(request, choice, run, image, detached=False), signals)


def submit_container(request: Request, choice: RunChoice) -> int:
    """Leave a recipe to Docker in a container; the exit code.

    Args:
        request: the recipe with its plan for this machine.
        choice: which run it is.

    Raises:
        RequestError: the recipe cannot run in a container, or is not the one that the run was begun with.
        RunDirectoryHeldError: the run has a job already.
        RunDirectoryUnusableError: the directory cannot be made, or holds a run already and that is not wanted.
        DockerError: Docker is not there, or starts nothing.
    """
    _container(
        request, choice, RunDirectory(choice.runs / "id"), None, detached=True
    )  # refused before it leaves a folder
    run, console = chosen_directory(choice, request.plan.recipe.name), lasting_console(soft_wrap=True)
    with _withdrawn(run):
        if goes_on(run, request, resume=choice.resume) and is_done(run):
            console.print(f"done: {shown_path(run.path)} has gone to its end")
            return ExitCode.DONE
        announce(console, request.plan, run)
        name = submit(_container(request, choice, run, None, detached=True), run).name
    console.print(f"job: {name} (launcher status {name}, launcher logs -f {name}, launcher cancel {name})")
    return ExitCode.DONE


def _container(
    request: Request, choice: RunChoice, run: RunDirectory, image: str | None, *, detached: bool
) -> Submission:
    recipe = request.plan.recipe
    folder = Path(os.path.normpath(request.loaded.path.absolute())).parent
    run = RunDirectory(Path(os.path.normpath(run.path.absolute())))
    image = image or recipe.launch.docker.image
    try:
        image = fit_image(recipe, folder, run.path.parent, image)
    except RequestError as error:
        raise error.located(request.loaded.marks) from None
    container = Container(image, folder, host_user(), choice.resume, choice.fork, detached)
    return docker_run(request.plan, run, container, os.environ)


@contextmanager
def _withdrawn(run: RunDirectory) -> Iterator[None]:
    """Leave nothing behind of a container that was not started."""
    try:
        yield
    except DockerError:
        run.docker_recipe.unlink(missing_ok=True)
        with suppress(OSError):  # it holds a run, and stays
            run.docker.rmdir()
            run.path.rmdir()
        raise
