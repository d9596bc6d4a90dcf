"""A container that Docker keeps, as `launcher submit` starts it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from launcher.cli.request import Request, read_request
from launcher.errors import RequestError
from launcher.launch.docker import Container, docker_run
from launcher.launch.docker_fit import fit_image
from launcher.launch.elsewhere import refuse_unset
from launcher.launch.submission import Submission
from launcher.recipe.files import without_dots
from launcher.rundir.layout import RunDirectory
from launcher.runners import docker


def read(recipe: Path, overrides: Sequence[str], runs: Path) -> Request:
    """The recipe with its plan for this machine.

    Raises:
        RequestError: it cannot run in a container.
    """
    request = read_request(recipe, overrides)
    job(request, RunDirectory(runs / request.plan.recipe.name))  # refused before it leaves a folder
    return request


def job(request: Request, run: RunDirectory, *, resume: bool = False) -> Submission:
    """The container of a run, which a dry run prints."""
    return container_of(request, run, None, resume=True, fork=False, detached=True)


def send(request: Request, submission: Submission, run: RunDirectory) -> docker.Container:
    """Leave the container to Docker.

    Raises:
        DockerError: Docker is not there, or starts nothing.
    """
    return docker.submit(submission, run)


def container_of(
    request: Request, run: RunDirectory, image: str | None, *, resume: bool, fork: bool, detached: bool = False
) -> Submission:
    """The container that runs a request.

    Args:
        request: the recipe with its plan for this machine.
        run: the directory of the run.
        image: the image that was named; None: the recipe names one.
        resume: go on with the run.
        fork: also if the recipe has changed.
        detached: Docker keeps it, and nobody waits for it here.

    Raises:
        RequestError: the recipe cannot run in a container.
    """
    recipe = request.plan.recipe
    folder = without_dots(request.loaded.path.absolute()).parent
    run = RunDirectory(without_dots(run.path.absolute()))
    try:
        image = fit_image(recipe, folder, run.path.parent, image or recipe.launch.docker.image)
        refuse_unset("launch.docker.env", recipe.launch.docker.env, os.environ)
    except RequestError as error:
        raise error.located(request.loaded.marks) from None
    return docker_run(
        request.plan, run, Container(image, folder, docker.host_user(), resume, fork, detached), os.environ
    )
