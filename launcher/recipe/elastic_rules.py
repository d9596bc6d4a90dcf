"""Rules of runs whose machines come and go."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.errors import Mistake
from launcher.recipe.node_range import MOST_ELASTIC_NODES
from launcher.recipe.schema import Recipe


def _elastic_goes_on(recipe: Recipe) -> Iterator[Mistake]:
    """An elastic run stops and goes on whenever a machine comes or goes, and its global batch stays."""
    launch, machines = recipe.launch, recipe.launch.machines
    if not launch.elastic:
        return
    if machines.least > machines.most:
        yield Mistake(
            "launch.nodes",
            f"{machines} begins above its end",
            f'Write "{machines.most}:{machines.least}"',
        )
    if max(machines.least, machines.most) > MOST_ELASTIC_NODES:
        yield Mistake(
            "launch.nodes", f"an elastic run has {MOST_ELASTIC_NODES} machines at most", "Write a smaller range"
        )
    if launch.method != "torchrun":
        yield Mistake(
            "launch.nodes",
            f"{launch.method} starts a fixed number of machines, not {machines}",
            "Set launch.method=torchrun, or a number of machines",
        )


def _elastic_saves(recipe: Recipe) -> Iterator[Mistake]:
    if recipe.launch.elastic and not recipe.checkpoint.wanted:
        yield Mistake(
            "launch.nodes",
            f"{recipe.launch.machines} goes on from checkpoints, and the recipe wants none",
            "Set checkpoint.minutes or checkpoint.every",
        )


def _elastic_keeps_its_batch(recipe: Recipe) -> Iterator[Mistake]:
    if recipe.launch.elastic and recipe.batch.global_ is None:
        yield Mistake(
            "launch.nodes",
            f"{recipe.launch.machines} needs batch.global: without it the batch would follow from the machines",
            "Give batch.global instead of batch.accumulation",
        )
    if recipe.launch.elastic and None not in (recipe.batch.global_, recipe.batch.micro, recipe.batch.accumulation):
        yield Mistake(
            "batch.accumulation",
            f"cannot be the same on {recipe.launch.machines} machines",
            "Delete it: it follows from batch.global and batch.micro",
        )


def _elastic_trains_a_task(recipe: Recipe) -> Iterator[Mistake]:
    if recipe.launch.elastic and recipe.script is not None and recipe.task is None:
        yield Mistake(
            "launch.nodes",
            f"{recipe.launch.machines} is for tasks: a script has no checkpoints to go on from",
            "Set a number of machines",
        )


ELASTIC_RULES = (
    (_elastic_goes_on, ("launch",)),
    (_elastic_saves, ("launch", "checkpoint")),
    (_elastic_keeps_its_batch, ("launch", "batch")),
    (_elastic_trains_a_task, ("launch", "task", "script")),
)
