"""Rules of what SkyPilot is asked for, as far as the recipe alone can break them."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.errors import Mistake
from launcher.recipe.schema import Recipe


def _spot_machines_keep_nothing(recipe: Recipe) -> Iterator[Mistake]:
    sky = recipe.launch.skypilot
    if sky.use_spot and sky.runs is None:
        yield Mistake(
            "launch.skypilot.use_spot",
            "a machine that is taken away takes the run along",
            "Name a volume or a bucket for the runs in launch.skypilot.runs",
        )


def _several_machines_share_a_volume(recipe: Recipe) -> Iterator[Mistake]:
    runs = recipe.launch.skypilot.runs
    if recipe.launch.machines.most > 1 and runs is not None and "://" in runs:
        yield Mistake(
            "launch.skypilot.runs",
            f"{runs} is a bucket, which has no locks, and several machines share the folder of runs",
            "Name a volume, or set launch.nodes=1",
        )


SKYPILOT_RULES = (
    (_spot_machines_keep_nothing, ("launch",)),
    (_several_machines_share_a_volume, ("launch",)),
)
