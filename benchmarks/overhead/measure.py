"""The two ranks: they run both loops in turn, time them, and hold their parameters against each other."""

from __future__ import annotations

import gc
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter, process_time

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.overhead.by_hand import run_by_hand
from benchmarks.overhead.case import Case, Cost
from benchmarks.overhead.launched import plan_of, run_launched
from benchmarks.overhead.work import SAMPLES, WORLD_SIZE, Items, Ran, Size, Work, make_model
from benchmarks.rank import end_rank
from launcher.plan.order import sample_order

SKIPPED = 5  # updates at the beginning of a run that are not timed: DDP rebuilds its buckets, the optimizer its state
COMPARED = 12  # updates after which the parameters of both loops are compared

Loop = Callable[[Callable[[int], None]], Ran]


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        sizes: the models.
        accumulations: the values of K.
        items: where the items of a window are known from.
        pairs: how often both loops run, in turn.
        updates: timed updates of each run, by model.
    """

    sizes: tuple[Size, ...]
    accumulations: tuple[int, ...]
    items: tuple[Items, ...]
    pairs: int
    updates: dict[Size, int]


def run_rank(rank: int, settings: Settings, folder: Path) -> None:
    """The main program of a rank; rank 0 leaves the cases in the folder.

    Args:
        rank: this rank.
        settings: what to measure.
        folder: an empty folder that both ranks see.
    """
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE)
    cases = []
    for size, items, accumulation in product(settings.sizes, settings.items, settings.accumulations):
        work = Work(size, accumulation, SKIPPED + settings.updates[size], items)
        cases.append(_measure(rank, work, settings, folder))
        if rank == 0:
            print(cases[-1].line(), file=sys.stderr)
    if rank == 0:
        (folder / "cases").write_bytes(pickle.dumps(cases))
    end_rank()


def read_cases(folder: Path) -> list[Case]:
    """What rank 0 left in the folder."""
    cases: list[Case] = pickle.loads((folder / "cases").read_bytes())
    return cases


def _measure(rank: int, work: Work, settings: Settings, folder: Path) -> Case:
    updates = settings.updates[work.size]
    loops: tuple[Loop, Loop] = (partial(run_by_hand, work), partial(run_launched, work, rank, folder))
    difference = _difference(rank, replace(work, updates=COMPARED), folder)  # it also warms both loops up
    pairs = [[_cost(loop, updates) for loop in loops] for _ in range(settings.pairs)]
    by_hand, launched = zip(*pairs, strict=True)
    return Case(work.size, work.items, work.accumulation, updates, by_hand, launched, difference)


def _cost(loop: Loop, updates: int) -> Cost:
    """What a run costs per update, from the mark before its first timed update to its end."""
    wall = cpu = 0.0

    def mark(update: int) -> None:
        nonlocal wall, cpu
        if update == SKIPPED:
            dist.barrier()
            wall, cpu = perf_counter(), process_time()

    gc.collect()
    waited = loop(mark).waited
    slowest = torch.tensor(perf_counter() - wall, dtype=torch.float64)
    total = torch.tensor(process_time() - cpu, dtype=torch.float64)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    dist.all_reduce(total)
    return Cost(slowest.item() / updates, total.item() / updates, waited / (SKIPPED + updates))


def _difference(rank: int, work: Work, folder: Path) -> float:
    """Both loops on the same windows: the distance of their parameters over the distance that these went."""
    launched = _flat(run_launched(work, rank, folder, _unmarked).model)
    by_hand = _flat(run_by_hand(work, _unmarked, _order_of_plan(work, rank)).model)
    torch.manual_seed(work.seed)
    first = _flat(make_model(work.size))
    return float((launched - by_hand).norm() / (by_hand - first).norm())


def _order_of_plan(work: Work, rank: int) -> Sequence[Sequence[int]]:
    """The samples that the launcher takes through each micro-step of a rank."""
    return [
        sample_order(range(part.first, part.first + part.samples), SAMPLES, work.seed, window.epoch).tolist()
        for window in plan_of(work).windows()
        for part in window.micro_batches(rank)
    ]


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double()


def _unmarked(update: int) -> None:
    """No mark is needed where nothing is timed."""
