"""From a plan to the launch that a runner executes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from launcher.launch.accelerate import accelerate_arguments, accelerate_config
from launcher.launch.deepspeed import deepspeed_json
from launcher.launch.environ import generation_environment, launch_environment
from launcher.launch.ray import ray_arguments
from launcher.launch.spec import LaunchSpec
from launcher.launch.torchrun import Meeting, torchrun_arguments
from launcher.plan.planner import Plan
from launcher.plan.topology import Machine
from launcher.recipe.dump import recipe_to_yaml
from launcher.rundir.layout import RunDirectory

AGENT_MODULE = "launcher.worker.agent"


def build_launch(
    plan: Plan,
    run: RunDirectory,
    machine: Machine,
    inherited: Mapping[str, str],
    python: str = sys.executable,
    worker_arguments: Sequence[str] = (),
    meeting: Meeting | None = None,
) -> LaunchSpec:
    """The launch of a plan on one machine. It writes and starts nothing, and reads the user's accelerate config alone.

    Args:
        plan: the plan.
        run: the directory of the run.
        machine: the machine that it will run on.
        inherited: the environment that the launch will be added to.
        python: the interpreter to start.
        worker_arguments: what every worker is told besides.
        meeting: where the machines of a run meet; None for one machine alone.

    Raises:
        RequestError: the user's own accelerate config contradicts the plan.
    """
    files = {run.recipe: recipe_to_yaml(plan.recipe), run.plan: plan.to_json() + "\n"}
    if plan.recipe.parallel.engine == "deepspeed":
        files[run.deepspeed_config] = deepspeed_json(plan)
    if plan.recipe.launch.method == "accelerate":
        arguments = accelerate_arguments(run, meeting)
        files[run.accelerate_config] = accelerate_config(plan)
    elif plan.recipe.launch.method == "ray":
        arguments = ray_arguments(plan)
    else:
        arguments = torchrun_arguments(plan.topology, run, meeting)
    return LaunchSpec(
        argv=(python, "-m", AGENT_MODULE, *arguments, *worker_arguments),
        env=launch_environment(plan, run, machine, inherited, meeting),
        files=files,
    )


def numbered(spec: LaunchSpec, generation: int, after: int | None = None) -> LaunchSpec:
    """A launch with the number under which it has taken its run over.

    Args:
        spec: the launch.
        generation: the number.
        after: the update that the run goes on after; 0 lets the workers load nothing, whatever there is. None leaves
            it to them.
    """
    return replace(spec, env={**spec.env, **generation_environment(generation, after)})
