"""A file of DeepSpeed's that a user's accelerate config names: what it says of the batch and of the precision.

A script's `Accelerator` takes these from the file, whatever else is said, and where the file has no
gradient_accumulation_steps it takes 1 (accelerate 1.15).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.launch.contradiction import Contradiction, is_true, same, shown
from launcher.plan.planner import Plan
from launcher.recipe.files import shown as shown_path

_KEY = "deepspeed_config.deepspeed_config_file"


def deepspeed_file(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    """What contradicts the plan in the file, if one is named; or why it cannot be read.

    Args:
        plan: the plan of a script.
        config: what the accelerate config file says.
    """
    file = (config.get("deepspeed_config") or {}).get("deepspeed_config_file")
    if file is None or file == "none":  # accelerate's own word for no file
        return
    name = shown_path(Path(str(file)))
    try:
        said = json.loads(Path(str(file)).read_bytes())
    except OSError as error:
        why = f"names {name}, which cannot be read: {error.strerror}"
        yield Contradiction(_KEY, why, "Give its whole path: accelerate looks for it from where the run is started")
        return
    except (ValueError, RecursionError):
        yield Contradiction(_KEY, f"names {name}, which is not JSON", "Correct the file")
        return
    if not isinstance(said, dict):
        yield Contradiction(_KEY, f"names {name}, which is no JSON object", 'Begin it with {"zero_optimization": ...}')
        return
    for key, value, recipe_says in (*_of_batch(plan, said), *_of_precision(plan, said)):
        says = f"names {name}, where {key} is {shown(value)}, and {recipe_says}"
        yield Contradiction(_KEY, says, "Change the file, or the recipe")


_Differing = tuple[str, Any, str]


def _of_batch(plan: Plan, said: Mapping[str, Any]) -> Iterator[_Differing]:
    batch = plan.batch
    for key, ours, recipe_says in (
        ("train_batch_size", batch.global_, f"the recipe has batch.global={batch.global_}"),
        ("train_micro_batch_size_per_gpu", batch.micro, f"the plan has batch.micro={batch.micro}"),
        ("gradient_accumulation_steps", batch.accumulation, f"the plan takes {batch.accumulation} micro-steps"),
    ):
        if not same(said.get(key), ours):
            yield key, said[key], recipe_says
    steps = "gradient_accumulation_steps"
    if said.get(steps) is None and batch.accumulation != 1:
        yield steps, "not there, which is 1", f"the plan takes {batch.accumulation} micro-steps"


def _of_precision(plan: Plan, said: Mapping[str, Any]) -> Iterator[_Differing]:
    precision = plan.recipe.train.precision
    for key in ("bf16", "fp16"):
        section = said.get(key)  # left out, or auto, it follows mixed_precision
        enabled = section.get("enabled", False) if isinstance(section, Mapping) else None
        if enabled is not None and enabled != "auto" and is_true(enabled) != (key == precision):
            yield f"{key}.enabled", enabled, f"the recipe has train.precision={precision}"
