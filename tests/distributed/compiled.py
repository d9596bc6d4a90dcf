"""Worker of test_compiled.py: ranks of which one has a compiler that is wrong, or all have one that is right.

torchrun --nproc-per-node=2 -m tests.rank tests.distributed.compiled OUT.json
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from launcher.errors import RequestError
from launcher.plan.planner import make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.train.compiling import compile_model
from launcher.train.job import build_job, build_materials
from launcher.train.loop import train
from tests.train.compilers import SAMPLES, Dropping, Right, Squares, Wrong

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"parallel": {"engine": "ddp"}},
    "accelerate": {"parallel": {"engine": "accelerate"}},
    "backwards one by one": {"multitask": {"backward": "sequential"}},
}


def trained(engine: str, task: type[Squares], backend: Right, samples: int = 16) -> dict[str, Any]:
    """What a training of two updates ends with, and the gradients that it reduced."""
    torch._dynamo.reset()
    recipe = Recipe.model_validate(
        {
            "task": {"entry": "package.module:Task"},
            "batch": {"global": samples, "micro": 4},
            "train": {"updates": 2, "compile": True},
            "optimizer": {"name": "sgd", "lr": 0.01},
            **ENGINES[engine],
        }
    )
    materials = build_materials(task, seed=0)
    topology = Topology(nodes=1, nproc_per_node=dist.get_world_size(), device="cpu")
    plan = with_facts(make_plan(recipe, topology), samples=SAMPLES, parameters=materials.parameters)
    rows: list[Any] = []
    with patch("launcher.train.job.compile_model", partial(compile_model, backend=backend)):
        job = build_job(plan, materials, dist.get_rank(), torch.device("cpu"), lambda: False)
    try:
        train(job, lambda result: rows.append(result.row()), lambda update: None)
    except RequestError as error:
        return {"said": str(error), "updates": len(rows)}
    return {"said": "", "updates": len(rows), "calls": [row["comm/allreduce_calls"] for row in rows]}


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    found: dict[str, Any] = {}
    for engine in ENGINES:
        found[engine] = {
            "wrong on one rank": trained(engine, Squares, Wrong(8, 4) if dist.get_rank() else Right()),
            "wrong, and drops": trained(engine, Dropping, Wrong(8, 4)),
            "right": trained(engine, Squares, Right()),
            "right, and one rank has no samples": trained(engine, Squares, Right(), samples=4),
        }
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, found)
    if dist.get_rank() == 0:
        out.write_text(json.dumps(everywhere))
    dist.destroy_process_group()
