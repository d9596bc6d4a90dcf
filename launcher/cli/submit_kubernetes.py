"""A job for Kubernetes, as `launcher submit` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.cli.request import Request, read_request
from launcher.errors import RequestError
from launcher.launch.kubernetes import KubernetesJob, kubernetes_job
from launcher.launch.kubernetes_fit import cluster_machine, refuse_code
from launcher.recipe.files import without_dots
from launcher.rundir.layout import RunDirectory
from launcher.runners.kubernetes import ClusterJob, submit


def read(recipe: Path, overrides: Sequence[str], runs: Path) -> Request:
    """The recipe with its plan for the machines of the cluster.

    Raises:
        RequestError: it cannot run there, or its pods would not find its code.
    """
    request = read_request(recipe, overrides, cluster_machine)
    try:
        refuse_code(request.plan.recipe, _folder(request))
    except RequestError as error:
        raise error.located(request.loaded.marks) from None
    return request


def job(request: Request, run: RunDirectory, *, resume: bool = False) -> KubernetesJob:
    """The job of a run, which a dry run prints."""
    return kubernetes_job(request.plan, run, _folder(request), _times(run), resume=resume)


def send(request: Request, submission: KubernetesJob, run: RunDirectory) -> ClusterJob:
    """Let the server check the job, and hand it to Kubernetes.

    Raises:
        KubernetesError: Kubernetes is not there, or does not take it.
    """
    asked = request.plan.recipe.launch.kubernetes
    return submit(submission, run, asked.kind, asked.namespace or "", _times(run))


def _folder(request: Request) -> Path:
    return without_dots(request.loaded.path.absolute()).parent


def _times(run: RunDirectory) -> int:
    """How often the run will have been submitted: the job before may still be there, under its name."""
    before = ClusterJob.of(run)
    return before.times + 1 if before else 1
