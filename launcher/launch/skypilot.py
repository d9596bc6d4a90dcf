"""A plan as a task of SkyPilot, which finds machines in a cloud for it. Pure: no cloud is asked here."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from launcher.errors import ExitCode, Mistake, RequestError
from launcher.launch.elsewhere import as_planned, code_folders, machine_elsewhere
from launcher.launch.submission import Submission
from launcher.launch.torchrun import RENDEZVOUS_PORT
from launcher.plan.planner import Plan
from launcher.plan.topology import Machine
from launcher.recipe.dump import recipe_to_yaml
from launcher.recipe.schema import Recipe
from launcher.rundir.layout import RunDirectory

RUNS = "/launcher/runs"  # the folder of runs on the machines
_RECIPE = "/launcher/recipe.yaml"
_PYTHON = "python3"


def sky_machine(recipe: Recipe) -> Machine:
    """The machine that a recipe asks SkyPilot for.

    Args:
        recipe: the recipe.

    Raises:
        RequestError: SkyPilot cannot run it, with every reason.
    """
    mistakes = list(_hindrances(recipe))
    if mistakes:
        raise RequestError(mistakes)
    return machine_elsewhere(recipe, "the machines of a cloud")


def sky_job(plan: Plan, run: RunDirectory) -> Submission:
    """The managed job that runs a plan: when its machines are taken away, SkyPilot finds others, and the run goes on.

    Args:
        plan: the plan, for a machine as `sky_machine` describes it.
        run: the directory of the run here, which keeps what SkyPilot is given.
    """
    secrets = [word for name in plan.recipe.launch.skypilot.secrets for word in ("--secret", name)]
    argv = ("sky", "jobs", "launch", "--yes", "--detach-run", *secrets, str(run.skypilot_task))
    files = {run.skypilot_recipe: recipe_to_yaml(as_planned(plan)), run.skypilot_task: _task(plan, run)}
    return Submission(argv, files)


def _task(plan: Plan, run: RunDirectory) -> str:
    """The task file."""
    sky = plan.recipe.launch.skypilot
    task: dict[str, Any] = {"name": run.path.name, "num_nodes": plan.topology.nodes, "resources": _resources(plan)}
    if sky.secrets:
        task["secrets"] = dict.fromkeys(sky.secrets)  # their values come with the command, from the environment
    task["file_mounts"] = {_RECIPE: str(run.skypilot_recipe), **{folder: folder for folder in _folders(plan.recipe)}}
    if sky.runs is not None and "://" in sky.runs:
        # MOUNT takes no file that grows, as metrics.jsonl does.
        task["file_mounts"][RUNS] = {"source": sky.runs, "mode": "MOUNT_CACHED"}
    elif sky.runs is not None:
        task["volumes"] = {RUNS: sky.runs}
    if sky.setup is not None:
        task["setup"] = sky.setup
    task["run"] = _run(plan, run)
    return yaml.dump(task, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def _resources(plan: Plan) -> dict[str, Any]:
    sky, topology = plan.recipe.launch.skypilot, plan.topology
    ranks = topology.nproc_per_node
    asked = {
        "infra": sky.infra,
        "accelerators": f"{sky.accelerator}:{ranks}" if topology.device == "cuda" else None,
        "cpus": f"{ranks * (1 + plan.recipe.data.workers)}+",
        "memory": None if sky.memory is None else f"{sky.memory}+",
        "disk_size": sky.disk,
        "image_id": sky.image,
        "use_spot": sky.use_spot or None,
        # A run that was stopped has a checkpoint to go on from; one that failed would fail again.
        "job_recovery": {"max_restarts_on_errors": 0, "recover_on_exit_codes": [int(ExitCode.REQUEUE)]},
    }
    return {name: value for name, value in asked.items() if value is not None}


def _run(plan: Plan, run: RunDirectory) -> str:
    """The commands of every machine: `launcher run`, which goes on where the run stands."""
    command = [_PYTHON, "-m", "launcher", "run", _RECIPE, "--runs", RUNS, "--run-id", run.path.name, "--resume", "auto"]
    if plan.topology.nodes == 1:
        return f"exec {shlex.join(command)}\n"
    return (
        'head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)\n'
        f"exec {shlex.join(command)} \\\n"
        '  --nodes "$SKYPILOT_NUM_NODES" --node-rank "$SKYPILOT_NODE_RANK" '
        f'--rendezvous "$head:{RENDEZVOUS_PORT}"\n'
    )


def _folders(recipe: Recipe) -> list[str]:
    """The folders of what the recipe names: they are at the same places there."""
    return [str(folder) for folder in code_folders(recipe)]


def _hindrances(recipe: Recipe) -> Iterator[Mistake]:
    launch, sky = recipe.launch, recipe.launch.skypilot
    if launch.elastic:
        yield Mistake(
            "launch.nodes",
            f"a task of SkyPilot has a fixed number of machines, not {launch.machines}",
            f"Set launch.nodes={launch.machines.most}",
        )
    if launch.method == "ray":
        yield Mistake(
            "launch.method",
            "the machines of a cloud have no Ray cluster to place the ranks",
            "Set launch.method=torchrun, or submit it by --to ray",
        )
    elif launch.method != "torchrun" and launch.machines.most > 1:
        yield Mistake(
            "launch.method",
            f"{launch.method} starts the ranks of one machine, and launch.nodes is {launch.nodes}",
            "Set launch.method=torchrun",
        )
    if launch.machines.most > 1 and sky.runs is None:
        yield Mistake(
            "launch.skypilot.runs",
            "several machines share the folder of runs, and no volume is named for it",
            "Name a volume, or set launch.nodes=1",
        )
    if launch.device != "cpu" and sky.accelerator is None:
        yield Mistake(
            "launch.skypilot.accelerator", "which GPUs the machines are to have is not said",
            "Write for example launch.skypilot.accelerator=H100, or set launch.device=cpu",
        )  # fmt: skip
    if sky.setup is None and sky.image is None:
        yield Mistake(
            "launch.skypilot.setup", "nothing installs the launcher on the machines",
            "Write the commands that do, or name an image that has it in launch.skypilot.image",
        )  # fmt: skip


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as lines."""


def _lines(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _lines)
