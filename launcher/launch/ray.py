"""A plan as workers of Ray Train, and as a job of a Ray cluster. Pure: no cluster is asked here."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec

from launcher.errors import Mistake, RequestError
from launcher.launch.elsewhere import as_planned, machine_elsewhere
from launcher.launch.submission import Submission
from launcher.plan.planner import Plan
from launcher.plan.topology import Machine, this_machine
from launcher.recipe.dump import recipe_to_yaml
from launcher.recipe.schema import Recipe
from launcher.rundir.layout import RunDirectory

_TO_END = 30  # seconds that a job gets to end, beside those in which its ranks save


def machine_of(recipe: Recipe) -> Machine:
    """The machine that a recipe is planned for: this one, or one of a Ray cluster, which cannot be seen from here.

    Raises:
        RequestError: the recipe does not say how many ranks a machine of the cluster has.
    """
    return ray_machine(recipe) if recipe.launch.method == "ray" else this_machine()


def ray_machine(recipe: Recipe) -> Machine:
    """What the ranks of a recipe get of each machine of a Ray cluster.

    Args:
        recipe: the recipe.

    Raises:
        RequestError: it does not say how many ranks that are.
    """
    return machine_elsewhere(recipe, "the machines of a Ray cluster", _cores(recipe))


def ray_arguments(plan: Plan) -> tuple[str, ...]:
    """The arguments of the agent that lets Ray Train place and start the ranks."""
    return (
        "ray",
        f"--num-workers={plan.topology.world_size}",
        f"--cpus-per-worker={_cores(plan.recipe)}",
        f"--gpus-per-worker={int(plan.topology.device == 'cuda')}",
    )


def ray_job(plan: Plan, run: RunDirectory, number: str) -> Submission:
    """The job that runs a plan on a Ray cluster: `launcher run`, whose ranks Ray places.

    Args:
        plan: the plan, for machines as `ray_machine` describes them.
        run: the directory of the run, which all machines of the cluster share.
        number: what Ray is to call it, and no other job.
    """
    launch = plan.recipe.launch
    # Ray kills a job three seconds after it has told it to stop, unless the job's environment says otherwise.
    to_end = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(math.ceil(launch.grace) + _TO_END)}}
    argv = (
        *("ray", "job", "submit", "--no-wait"),
        *([] if launch.ray.address is None else [f"--address={launch.ray.address}"]),
        f"--submission-id={number}",
        f"--runtime-env-json={json.dumps(to_end)}",
        *("--", launch.ray.python, "-m", "launcher", "run", str(run.ray_recipe)),
        *("--runs", str(run.path.parent), "--run-id", run.path.name, "--resume", "auto"),
    )
    return Submission(argv, {run.ray_recipe: recipe_to_yaml(as_planned(plan))})


def refuse_missing_ray(recipe: Recipe) -> None:
    """Make sure, before anything is started, that Ray is installed where the recipe needs it.

    It is looked for and not imported, which takes seconds.

    Raises:
        RequestError: it is not there.
    """
    if recipe.launch.method == "ray" and find_spec("ray") is None:
        cure = "Install it with pip install 'launcher[ray]', or set launch.method=torchrun"
        raise RequestError([Mistake("launch.method", "the package ray is not installed", cure)])


def _cores(recipe: Recipe) -> int:
    """Cores of a rank: what it and its data-loading processes keep busy."""
    return recipe.launch.ray.cpus_per_rank or 1 + recipe.data.workers
