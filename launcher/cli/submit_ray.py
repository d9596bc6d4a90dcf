"""A job for a Ray cluster, as `launcher submit` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.cli.request import Request, read_request
from launcher.launch.ray import ray_job
from launcher.launch.submission import Submission
from launcher.rundir.layout import RunDirectory
from launcher.runners import ray


def read(recipe: Path, overrides: Sequence[str], runs: Path) -> Request:
    """The recipe with its plan for the machines of the cluster, on which Ray places the ranks.

    Raises:
        RequestError: it cannot run there.
    """
    return read_request(recipe, [*overrides, "launch.method=ray"])


def job(request: Request, run: RunDirectory, *, resume: bool = False) -> Submission:
    """The job of a run, which a dry run prints."""
    return ray_job(request.plan, run, ray.fresh_number())


def send(request: Request, submission: Submission, run: RunDirectory) -> ray.Job:
    """Hand the job to Ray.

    Raises:
        RayError: Ray is not there, or does not take it.
    """
    return ray.submit(submission, run, request.plan.recipe.launch.ray.address)
