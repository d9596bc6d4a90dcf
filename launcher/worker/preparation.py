"""What a worker does before it trains or proves: the user's objects, the process group, what the plan lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from launcher.plan.history import History
from launcher.plan.planner import Plan, with_facts
from launcher.rundir.generation import Generation
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.train.engines.process_group import gather, process_group
from launcher.train.job import Materials, build_materials
from launcher.worker.components import load_task
from launcher.worker.dist_env import DistEnv

Gather = Callable[[Any], list[Any]]


@dataclass(frozen=True)
class Prepared:
    """What a rank works with.

    Attributes:
        plan: the plan, with the length of the data and the size of the model.
        materials: the user's objects.
        device: the device of this rank.
        gather: tells all ranks what each has.
    """

    plan: Plan
    materials: Materials
    device: torch.device
    gather: Gather


@contextmanager
def prepared(plan: Plan, run: RunDirectory, env: DistEnv, generation: Generation) -> Iterator[Prepared]:
    """The task of a plan, and the process group for as long as the context lasts; rank 0 renews `plan.json`.

    Args:
        plan: the plan of the run.
        run: its directory.
        env: this worker's place.
        generation: of the launch that it belongs to.

    Raises:
        RequestError: the recipe says of the data or the model what is not so.
        StaleWriterError: a later launch has taken the run over.
    """
    section = plan.recipe.task
    if section is None:
        raise ValueError("the recipe has no task")
    device = _device(plan, env)
    materials = build_materials(lambda: load_task(section), plan.recipe.train.seed)
    # DeepSpeed has a group also where one rank is alone.
    alone = env.world_size == 1
    grouped = not alone or plan.recipe.parallel.engine == "deepspeed"
    group = process_group(device, plan.recipe.parallel.timeout, alone) if grouped else nullcontext()
    tell: Gather = gather if env.world_size > 1 else lambda value: [value]
    with group:
        plan = _with_history(plan, run, tell)
        plan = _with_facts_of_all_ranks(plan, materials, tell)
        if env.rank == 0:
            generation.check()
            write_atomically(run.plan, plan.to_json() + "\n", lasting=True)
        yield Prepared(plan, materials, device, tell)


def _with_history(plan: Plan, run: RunDirectory, tell: Gather) -> Plan:
    """The plan with what the launches before have come to, as rank 0 reads it."""
    history: History = tell(History.read(run.past, run.fitting, plan.recipe))[0]
    return history.of(plan)


def _with_facts_of_all_ranks(plan: Plan, materials: Materials, tell: Gather) -> Plan:
    """The plan with the length of the data and the size of the model, once all ranks agree about them."""
    facts = (len(materials.train_data), materials.parameters)
    for what, found in zip(("samples", "trainable parameters"), zip(*tell(facts), strict=True), strict=True):
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
