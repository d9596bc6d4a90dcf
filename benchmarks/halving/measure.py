"""The two ranks: they train with `stop` and with `halve` in turn, and time both."""

from __future__ import annotations

import argparse
import gc
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import torch.distributed as dist

from benchmarks.markdown import markdown_table
from benchmarks.overhead.launched import WorkTask, plan_of
from benchmarks.overhead.work import WORLD_SIZE, Size, Work
from benchmarks.rank import end_rank
from launcher.plan.planner import make_plan, with_facts
from launcher.train.job import build_job, build_materials
from launcher.train.loop import train

SKIPPED = 5  # updates at the beginning of a run that are not timed
UPDATES: dict[Size, int] = {"tiny": 100, "wide": 15}
COLUMNS = ("model", "K", "stop, ms", "halve, ms", "halve / stop", "smallest", "largest")


def run_rank(rank: int, options: argparse.Namespace, folder: str) -> None:
    """The main program of a rank; rank 0 leaves the table in the folder.

    Args:
        rank: this rank.
        options: what to measure.
        folder: an empty folder that both ranks see.
    """
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE)
    rows = []
    for size, accumulation in product(options.model, (1, 4)):
        updates = options.updates or UPDATES[size]
        work = Work(size, accumulation, SKIPPED + updates)
        _seconds(work, rank, "stop")
        pairs = [[_seconds(work, rank, what) / updates for what in ("stop", "halve")] for _ in range(options.pairs)]
        ratios = [halve / stop for stop, halve in pairs]
        times = [f"{1e3 * median(column):.2f}" for column in zip(*pairs, strict=True)]
        rows.append((size, str(accumulation), *times, *(f"{of(ratios):.2f}" for of in (median, min, max))))
    if rank == 0:
        (Path(folder) / "table").write_text(markdown_table(COLUMNS, rows, words=1))
    end_rank()


def _seconds(work: Work, rank: int, what: str) -> float:
    """Seconds of the timed updates of a run, in the slower rank."""
    planned = plan_of(work)
    batch = planned.recipe.batch.model_copy(update={"on_out_of_memory": what})
    plan = make_plan(planned.recipe.model_copy(update={"batch": batch}), planned.topology)
    materials = build_materials(lambda: WorkTask(work), work.seed)
    plan = with_facts(plan, samples=len(materials.train_data), parameters=materials.parameters)
    job = build_job(plan, materials, rank, torch.device("cpu"), lambda: False)
    began = 0.0

    def started(update: int) -> None:
        nonlocal began
        if update == SKIPPED + 1:
            dist.barrier()
            began = perf_counter()

    gc.collect()
    train(job, lambda result: None, started)
    seconds = torch.tensor(perf_counter() - began, dtype=torch.float64)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return seconds.item()
