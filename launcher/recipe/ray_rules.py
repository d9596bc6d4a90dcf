"""Rules of runs whose ranks Ray places."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.errors import Mistake
from launcher.recipe.schema import Recipe


def _ray_places_ranks(recipe: Recipe) -> Iterator[Mistake]:
    if recipe.launch.method == "ray" and recipe.parallel.engine == "fsdp" and recipe.parallel.fsdp.replicas == "nodes":
        yield Mistake(
            "parallel.fsdp.replicas",
            "needs as many ranks on each machine, and launch.method=ray leaves to Ray where they are",
            "Set parallel.fsdp.replicas=none, or launch.method=torchrun",
        )


RAY_RULES = ((_ray_places_ranks, ("launch", "parallel")),)
