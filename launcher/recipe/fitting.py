"""What keeps a recipe from trying what fits: where a rank that runs out of memory alone would leave others waiting."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.recipe.engines import engines_that
from launcher.recipe.schema import Recipe


def hindrances(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What `batch.micro: auto` and `batch.on_out_of_memory: halve` do not go with: the key, and why.

    Args:
        recipe: the recipe.
    """
    parallel = recipe.parallel
    if recipe.script is not None and recipe.task is None:
        yield "script", "a script loads and steps by itself"
    if recipe.train.exact_ranks is not None:
        yield "train.determinism", "exact bits follow from the micro-batch"
    if parallel.sync_batchnorm:
        yield (
            "parallel.sync_batchnorm",
            "ranks meet in each forward pass, where one that runs out of memory leaves the others waiting",
        )
    if not parallel.abilities.recovers_memory:
        yield (
            "parallel.engine",
            f"{parallel.engine} lets ranks wait for each other in a forward or backward, where one may run out of "
            f"memory alone (those that do not: {engines_that(lambda can: can.recovers_memory)})",
        )
