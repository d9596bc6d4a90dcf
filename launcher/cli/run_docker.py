"""A run in a container from the choice of its directory to its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.cli.output import lasting_console
from launcher.cli.request import Request, read_request
from launcher.cli.run_here import RunChoice, chosen_directory
from launcher.cli.submit_docker import container_of
from launcher.cli.submitting import chosen_run
from launcher.errors import ExitCode, Mistake, RequestError
from launcher.launch.submission import Submission
from launcher.rundir.layout import RunDirectory
from launcher.runners.docker import DockerError, run_attached
from launcher.runners.place import Place
from launcher.runners.supervise import listening

_OF_PYTHON = 1  # the exit code of a program that is not there; the launcher itself has others


def run_inside(
    image: str, path: Path, overrides: Sequence[str], choice: RunChoice, place: Place | None, *, dry_run: bool
) -> int:
    """Run a recipe in a container to its end, or print what would be executed; the exit code.

    Args:
        image: the image.
        path: the recipe file.
        overrides: `key.path=value` strings, later ones winning.
        choice: which run it is.
        place: of this machine, if the command has given it one.
        dry_run: whether to print.

    Raises:
        RequestError: the recipe cannot run in a container.
        RunDirectoryUnusableError: the directory cannot be made.
        DockerError: Docker is not there, or starts nothing.
    """
    if place is not None:
        raise RequestError(
            [Mistake("--in docker", "runs the ranks of one machine", "For several see docker/compose.yaml")]
        )
    request = read_request(path, overrides)
    preview = chosen_run(request, choice)
    shown = _container(request, choice, preview, image)  # refused before it leaves a folder
    if dry_run:
        print(shown.as_shell())
        return ExitCode.DONE
    run = chosen_directory(choice, request.plan.recipe.name)
    with listening() as signals, _withdrawn(run):
        lasting_console(soft_wrap=True).print(f"container: {image}")
        before = _written(run)
        code = run_attached(_container(request, choice, run, image), signals)
        if code == _OF_PYTHON and _written(run) == before:
            raise DockerError(f"{image} has no launcher that runs: what it says to that stands above.")
        return code


def _container(request: Request, choice: RunChoice, run: RunDirectory, image: str) -> Submission:
    return container_of(request, run, image, resume=choice.resume, fork=choice.fork)


def _written(run: RunDirectory) -> int | None:
    """When a launcher last said how the run stands, in nanoseconds since the epoch; None where none has."""
    try:
        return run.status.stat().st_mtime_ns
    except OSError:
        return None


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
