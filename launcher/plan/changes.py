"""What differs between the plan that a run was begun with and the one that it is to go on with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.errors import Mistake, RequestError
from launcher.plan.planner import Plan

# What may be another one: it says where and how a run is made, and not what is trained.
_FREE = (
    "name",
    "data.workers",
    "data.samples",
    "model.parameters",
    "batch.global",
    "batch.micro",
    "batch.accumulation",
    "batch.on_out_of_memory",
    "batch.schedule",
    "eval",
    "guard",
    "noise_scale",
    "parallel",
    "launch",
    "checkpoint",
    "tracking",
)

# Files beside the recipe: a project may be moved, and is the same one in its new place.
_FILES = ("task.entry", "script.path")

# The gradient's norm is added up bucket by bucket.
_FIXED_WHERE_EXACT = ("batch.micro", "parallel.bucket_mb", "launch.device")


def changes(begun: Plan, now: Plan) -> Iterator[Mistake]:
    """What a run cannot go on with unnoticed. The ranks and the micro-batch may be others: the windows stay.

    Args:
        begun: the plan that the run was begun with.
        now: the plan to go on with.
    """
    if begun.batches != now.batches or begun.recipe.batch.schedule != now.recipe.batch.schedule:
        yield _change("batch.global", _in_turn(begun.batches), _in_turn(now.batches))
    before, after = _leaves(begun), _leaves(now)
    exact = begun.recipe.train.exact_ranks is not None
    for key in {**before, **after}:
        if before.get(key) != after.get(key) and (not _is_free(key) or (exact and key in _FIXED_WHERE_EXACT)):
            yield _change(key, str(before.get(key)), str(after.get(key)))


def refuse_past_end(plan: Plan, update: int) -> None:
    """Keep a run from going on after its end, as a fork to fewer updates would; nothing where that is not known yet.

    Args:
        plan: the plan to go on with.
        update: updates made.

    Raises:
        RequestError: more updates were made than the plan has.
    """
    updates = plan.length.updates
    if updates is not None and update > updates:
        train = plan.recipe.train
        key = "train.updates" if train.updates else "train.samples" if train.samples else "train.epochs"
        wrong = f"the run goes on after update {update:,}, and this recipe ends after {updates:,}"
        raise RequestError([Mistake(key, wrong, "Give it more, or choose another --run-id to begin from the start")])


def recipe_mark(plan: Plan) -> str:
    """What plans have in common between which nothing is fixed that changes: a hash, for checkpoints to carry.

    A key that has its default is left out: a later version of the launcher, which has more keys, gives the same.
    """
    exact = plan.recipe.train.exact_ranks is not None
    fixed = {
        key: value
        for key, value in _leaves(plan, defaults=False).items()
        if value != {} and (not _is_free(key) or (exact and key in _FIXED_WHERE_EXACT))
    }
    body = {
        "global": plan.batches,
        "schedule": plan.recipe.batch.model_dump(mode="json", exclude_defaults=True).get("schedule"),
        "recipe": fixed,
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in _FREE)


def _change(key: str, was: str, now: str) -> Mistake:
    return Mistake(key, f"the run was begun with {was}, not {now}", "Set it back, or go on with the change by --fork")


def _in_turn(batches: list[int]) -> str:
    return " then ".join(map(str, batches))


def _leaves(plan: Plan, *, defaults: bool = True) -> dict[str, Any]:
    """Dotted key → value of a plan's recipe, with the keys that have their default or without; files by name alone."""
    found: dict[str, Any] = {}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, dict) and value:
            for name, below in value.items():
                walk(below, f"{key}.{name}" if key else name)
        else:
            found[key] = Path(value).name if key in _FILES and value else value

    walk(plan.recipe.model_dump(by_alias=True, mode="json", exclude_defaults=not defaults), "")
    return found
