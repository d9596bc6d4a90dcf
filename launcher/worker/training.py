"""A task's training in one rank: from the plan to the last update."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch

from launcher.plan.planner import Plan, with_facts
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.trackers.base import Composite, Tracker
from launcher.trackers.jsonl import JsonlTracker
from launcher.trackers.wandb import make_wandb_tracker
from launcher.train.engines.process_group import gather, process_group
from launcher.train.job import Materials, build_job, build_materials
from launcher.train.loop import train
from launcher.train.step_result import StepResult
from launcher.worker.components import load_task
from launcher.worker.dist_env import DistEnv
from launcher.worker.process import StopFlag


def run_training(plan: Plan, run: RunDirectory, env: DistEnv, started: Callable[[int], None]) -> None:
    """Train this rank's share of the plan's task.

    Args:
        plan: the plan of the run.
        run: its directory.
        env: this worker's place.
        started: told the number of each update before it begins.

    Raises:
        RequestError: the recipe says of the data or the model what is not so.
    """
    section = plan.recipe.task
    if section is None:
        raise ValueError("the recipe has no task")
    device = _device(plan, env)
    materials = build_materials(lambda: load_task(section), plan.recipe.train.seed)
    group = process_group(device, plan.recipe.parallel.timeout) if env.world_size > 1 else nullcontext()
    with group:
        plan = _with_facts_of_all_ranks(plan, materials, env)
        if env.rank == 0:
            write_atomically(run.plan, plan.to_json() + "\n")
            _say_what_was_found(plan, materials)
        stop = StopFlag()
        job = build_job(plan, materials, env.rank, device, stop.is_set)
        trackers = _trackers(plan, run) if env.rank == 0 else Composite([])

        def log(result: StepResult) -> None:
            if env.rank == 0:
                trackers.log(result.row())

        finished = False
        try:
            stop.listen()  # from here on a signal ends the run at an update; until here, at once
            finished = train(job, log, started)
        finally:
            trackers.finish(finished)


def _with_facts_of_all_ranks(plan: Plan, materials: Materials, env: DistEnv) -> Plan:
    """The plan with the length of the data and the size of the model, once all ranks agree about them."""
    facts = (len(materials.train_data), materials.parameters)
    all_facts = gather(facts) if env.world_size > 1 else [facts]
    for what, found in zip(("samples", "trainable parameters"), zip(*all_facts, strict=True), strict=True):
        if len(set(found)) > 1:
            raise ValueError(
                f"the ranks do not see the same task: they have {', '.join(map(str, found))} {what}. Let the task give "
                "every rank all of the data; the plan deals it out"
            )
    return with_facts(plan, samples=facts[0], parameters=facts[1])


def _device(plan: Plan, env: DistEnv) -> torch.device:
    if plan.topology.device == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", env.local_rank)
    torch.cuda.set_device(device)
    return device


def _trackers(plan: Plan, run: RunDirectory) -> Composite:
    trackers: list[Tracker] = [JsonlTracker(run.metrics, print)]
    wandb = make_wandb_tracker(plan, run.path, print)
    if wandb is not None:
        trackers.append(wandb)
    return Composite(trackers)


def _say_what_was_found(plan: Plan, materials: Materials) -> None:
    print(f"data: {plan.length.data_samples:,} samples; model: {materials.parameters:,} trainable parameters")
    batchnorm = [name for name, layer in materials.model.named_modules() if _sees_the_micro_batch(layer)]
    if batchnorm and not plan.recipe.parallel.sync_batchnorm:
        print(
            f"warning: {', '.join(batchnorm)} take statistics from one micro-batch, so accumulation does not equal "
            "one big batch"
        )


def _sees_the_micro_batch(layer: torch.nn.Module) -> bool:
    return isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)
