"""Holding a run that goes on to the data that it was begun with."""

from __future__ import annotations

import json
from contextlib import suppress

from launcher.errors import Mistake, RequestError
from launcher.plan.planner import Plan
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.train.fingerprint import fingerprint, first_difference
from launcher.train.job import Materials
from launcher.train.samples import KeyedBatches
from launcher.worker.preparation import Gather


def hold_to_data(
    run: RunDirectory, plan: Plan, materials: Materials, rank: int, gather: Gather, *, resumed: bool
) -> None:
    """Note some samples of the data, or compare them with what was noted; rank 0 does so for all.

    Args:
        run: the directory of the run.
        plan: its plan.
        materials: the user's objects.
        rank: this rank.
        gather: tells all ranks what each has.
        resumed: whether the run goes on from a checkpoint.

    Raises:
        RequestError: a sample is another one.
    """
    differs: int | None = gather(_different_sample(run, plan, materials, resumed) if rank == 0 else None)[0]
    if differs is not None:
        raise RequestError(
            [
                Mistake(
                    "task",
                    f"the run was begun on other data: sample {differs:,} has changed",
                    "Give it the same data, or go on with the change by --fork",
                )
            ]
        )


def _different_sample(run: RunDirectory, plan: Plan, materials: Materials, resumed: bool) -> int | None:
    recipe = plan.recipe
    now = fingerprint(KeyedBatches(materials.task, materials.train_data, recipe.train.seed), recipe.data.workers)
    if resumed:
        with suppress(OSError, ValueError, KeyError):
            was = json.loads(run.data.read_text(encoding="utf-8"))
            differs = first_difference(was, now)
            if differs is not None or was["versions"] == now["versions"]:
                return differs
    with suppress(OSError):
        write_atomically(run.data, json.dumps(now), lasting=True)
    return None
