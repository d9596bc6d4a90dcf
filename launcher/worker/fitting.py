"""The micro-batch that a run finds by trying, kept in its directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from launcher.plan.fitting import Findings
from launcher.plan.planner import Plan, with_found
from launcher.rundir.generation import Generation
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.train.job import Job
from launcher.train.memory import Halved
from launcher.train.micro_search import find_micro
from launcher.train.task import SampleSource

Say = Callable[[str], None]


def fitted(job: Job, data: SampleSource, first_update: int, run: RunDirectory, generation: Generation) -> Job:
    """A job with the micro-batch that fits, if the recipe asks for it and no launch has found it yet.

    Args:
        job: this rank's job, before anything is loaded or trained.
        data: the training data.
        first_update: the update that it begins with, from 0.
        run: the directory of the run.
        generation: of the launch that it belongs to.

    Raises:
        NoMemoryError: not even one sample fits.
        StaleWriterError: a later launch has taken the run over.
    """
    if job.plan.recipe.batch.micro != "auto" or job.plan.found:
        return job
    first = job.engine.rank == 0
    plan = with_found(job.plan, [find_micro(job, data, first_update, print if first else _nobody)])
    job.go_on(plan, first_update)
    if first:
        _keep(plan, run, generation)
    return replace(job, plan=plan)


def keeper(rank: int, run: RunDirectory, generation: Generation) -> Callable[[Halved], None]:
    """What keeps and says that the micro-batch was halved, on rank 0.

    Args:
        rank: this rank.
        run: the directory of the run.
        generation: of the launch that it belongs to.
    """

    def keep(halved: Halved) -> None:
        if rank == 0:
            _keep(halved.plan, run, generation)
            print(halved)

    return keep


def _keep(plan: Plan, run: RunDirectory, generation: Generation) -> None:
    """Keep it for the launches to come, and in `plan.json`, unless they have begun and found their own."""
    generation.check()
    write_atomically(run.fitting, Findings.of(plan.recipe, plan.found).to_json() + "\n", lasting=True)
    write_atomically(run.plan, plan.to_json() + "\n", lasting=True)


def _nobody(said: str) -> None:
    """What one rank says for all of them."""
