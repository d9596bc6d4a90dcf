"""What a contradiction between a user's accelerate config file and a plan is, and how two values are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Contradiction(NamedTuple):
    """A key of the file that does not go with the plan.

    Attributes:
        key: dotted key of the file.
        wrong: both values, as a clause.
        cure: what to do, as a sentence.
    """

    key: str
    wrong: str
    cure: str


def differing(
    config: Mapping[str, Any], section: str, key: str, ours: Any, recipe_says: str
) -> Iterator[Contradiction]:
    """The value of a key in a section of the file, where it is neither ours nor left open.

    Args:
        config: what the file says.
        section: the section of the file.
        key: the key in it.
        ours: the value of the plan.
        recipe_says: the recipe's side, as a clause.
    """
    value = (config.get(section) or {}).get(key)
    if not same(value, ours):
        yield Contradiction(
            f"{section}.{key}", f"is {shown(value)}, and {recipe_says}", "Delete the key, or change the recipe"
        )


def same(value: Any, ours: Any) -> bool:
    """Whether a value of the file is ours, in whatever type it is written, or leaves it open."""
    return value is None or str(value).lower() in ("auto", shown(ours).lower()) or _number(value) == _number(ours)


def shown(value: Any) -> str:
    """A value as the file has it."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def is_true(value: Any) -> bool:
    """Whether a value says yes: accelerate's own questions are answered with yes and no."""
    return str(value).lower() in ("true", "yes", "1")


def _number(value: Any) -> float | object:
    """A value as a number, where it is one; else something that equals nothing."""
    try:
        return object() if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return object()
