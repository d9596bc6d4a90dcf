"""The recipe's precision in accelerate's words."""

from __future__ import annotations

from launcher.recipe.schema import Recipe

MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def mixed_precision(recipe: Recipe) -> str:
    """What `mixed_precision` is to be for the processes of a recipe.

    A script's own `Accelerator` takes it from there. The loop of a task scales the losses of fp16 by itself.

    Args:
        recipe: the recipe.
    """
    scaled_here = recipe.script is None and recipe.train.precision == "fp16"
    return "no" if scaled_here else MIXED_PRECISION[recipe.train.precision]
