"""Worker of test_causes.py: the proof of every task of tests/tasks/proofs.py on this world's ranks.

torchrun --nproc-per-node=W -m tests.rank tests.proof.causes OUT.json
"""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from launcher.plan.planner import make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.rundir.proof import Proof
from launcher.train.engines.process_group import process_group
from launcher.train.job import build_materials
from launcher.train.proof.prove import prove
from launcher.train.task import Task
from launcher.worker.components import load_task
from tests.tasks import proofs

TASKS = [
    name
    for name, kind in vars(proofs).items()
    if isinstance(kind, type) and issubclass(kind, Task) and kind.__module__ == proofs.__name__
]
SEVERAL: dict[str, dict[str, Any]] = {
    "Summed": {"losses": {"fit": 1.0, "size": 0.1}},
    "Disagreeing": {"losses": {"fit": 1.0}, "backward": "sequential"},
}


def proof_of(task: str, rank: int, world: int) -> Proof:
    """An uneven window of 18 samples in micro-batches of 4."""
    recipe = Recipe.model_validate(
        {
            "name": task,
            "task": {"entry": f"tests.tasks.proofs:{task}"},
            "batch": {"global": 18, "micro": 4},
            "train": {"updates": 1},
            "multitask": SEVERAL.get(task, {}),
        }
    )
    section = recipe.task
    assert section
    materials = build_materials(lambda: load_task(section), recipe.train.seed)
    plan = make_plan(recipe, Topology(nodes=1, nproc_per_node=world, device="cpu"))
    plan = with_facts(plan, samples=len(materials.train_data), parameters=materials.parameters)
    return prove(plan, materials, torch.device("cpu"), rank, say=lambda step: None)


def main(out: Path) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with process_group(torch.device("cpu"), timeout=60) if world > 1 else nullcontext():
        found = {task: proof_of(task, rank, world).model_dump(mode="json") for task in TASKS}
    if rank == 0:
        out.write_text(json.dumps(found))
