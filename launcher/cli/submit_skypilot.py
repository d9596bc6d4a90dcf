"""A managed job of SkyPilot, as `launcher submit` makes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from launcher.cli.request import Request, read_request
from launcher.errors import RequestError
from launcher.launch.elsewhere import refuse_unset
from launcher.launch.skypilot import sky_job, sky_machine
from launcher.launch.submission import Submission
from launcher.rundir.layout import RunDirectory
from launcher.runners import skypilot


def read(recipe: Path, overrides: Sequence[str], runs: Path) -> Request:
    """The recipe with its plan for the machines that SkyPilot is asked for.

    Raises:
        RequestError: it cannot run there, or a secret that it names is not set here.
    """
    request = read_request(recipe, overrides, sky_machine)
    try:
        refuse_unset("launch.skypilot.secrets", request.plan.recipe.launch.skypilot.secrets, os.environ)
    except RequestError as error:
        raise error.located(request.loaded.marks) from None
    return request


def job(request: Request, run: RunDirectory, *, resume: bool = False) -> Submission:
    """The job of a run, which a dry run prints."""
    return sky_job(request.plan, run)


def send(request: Request, submission: Submission, run: RunDirectory) -> None:
    """Hand the job to SkyPilot, whose own commands ask for it from then on (`sky jobs queue`, `logs`, `cancel`).

    Raises:
        SkyPilotError: SkyPilot is not there, or does not take it.
    """
    skypilot.submit(submission, run)
