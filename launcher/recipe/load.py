"""From a file and overrides to a checked `Recipe`, or to every mistake in it at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from launcher.errors import Mistake, RequestError
from launcher.recipe.keys import expectation, fragment, suggestion
from launcher.recipe.rules import broken_rules
from launcher.recipe.schema import Recipe
from launcher.recipe.source import Source, read_source
from launcher.recipe.task_code import missing_code


@dataclass(frozen=True)
class LoadedRecipe:
    """A checked recipe, and where each of its keys stands.

    Attributes:
        recipe: the recipe, its file paths absolute.
        path: the recipe file, as the user named it.
        marks: dotted key → `file:line` or `command line`.
    """

    recipe: Recipe
    path: Path
    marks: dict[str, str]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read and check a recipe.

    Args:
        path: the recipe file.
        overrides: `key.path=value` strings, later ones winning.

    Raises:
        RequestError: with every mistake that was found, each with its place and its cure.
    """
    source = read_source(path, overrides)
    mistakes, recipe = _validate(source.data)
    if recipe is not None:
        recipe = _with_absolute_paths(recipe, source, path)
        mistakes += missing_code(recipe)
    if recipe is None or mistakes:
        located = RequestError(mistakes).located({"": str(path), **source.marks})
        raise RequestError(sorted(located.mistakes, key=lambda mistake: _place(mistake.where)))
    return LoadedRecipe(recipe, path, source.marks)


def _validate(data: dict[str, Any]) -> tuple[list[Mistake], Recipe | None]:
    """Check the types and the rules; the recipe is None where types are wrong.

    Sections with a wrong value are then taken out and the rules are checked on the others, so that one command
    reports all that can be known.
    """
    try:
        recipe = Recipe.model_validate(data)
        return list(broken_rules(recipe)), recipe
    except ValidationError as error:
        mistakes = list(_type_mistakes(error.errors(include_url=False), data))
    broken_sections = {mistake.key.partition(".")[0] for mistake in mistakes}
    sound = Recipe.model_validate({key: value for key, value in data.items() if key not in broken_sections})
    rules = [rule for rule in broken_rules(sound) if rule.key.partition(".")[0] not in broken_sections]
    return mistakes + rules, None


def _type_mistakes(errors: list[ErrorDetails], data: dict[str, Any]) -> Iterator[Mistake]:
    reported: set[str] = set()
    for error in errors:
        key = _key_of(error)
        if key in reported:
            continue  # one mistake for a value, however many of the types it could have had
        reported.add(key)
        if error["type"] == "extra_forbidden":
            near = suggestion(key)
            yield Mistake(key, "unknown key", f"Did you mean {near}?" if near else "Delete it")
            continue
        expected = expectation(fragment(key) or {})
        if error["type"] == "missing" and key == ".".join(str(part) for part in error["loc"]):
            yield Mistake(key, f"is missing: it must be {expected}")
        else:
            yield Mistake(key, f"must be {expected}, not {_shown(_value_at(data, key))}")


def _key_of(error: ErrorDetails) -> str:
    """The dotted key of an error: pydantic appends the names of the types that it tried, which are no keys."""
    parts = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        return ".".join(parts)
    while fragment(".".join(parts)) is None or parts[-1].isdigit():
        parts.pop()
    return ".".join(parts)


def _place(where: str) -> tuple[str, int]:
    """Sort key of a mistake's place: by file, and by line as a number."""
    file, _, line = where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (where, 0)


def _value_at(data: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        else:
            return data
    return data


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, dict):
        return "a mapping"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _with_absolute_paths(recipe: Recipe, source: Source, path: Path) -> Recipe:
    """Paths in a recipe start from the file that gives them, so that a resolved recipe works from anywhere."""
    changes: dict[str, Any] = {}
    if recipe.task and recipe.task.entry.partition(":")[0].endswith(".py"):
        folder = source.folders.get("task.entry", path.parent.absolute())
        changes["task"] = recipe.task.model_copy(update={"entry": str(folder / recipe.task.entry)})
    if recipe.script:
        folder = source.folders.get("script.path", path.parent.absolute())
        changes["script"] = recipe.script.model_copy(update={"path": str(folder / recipe.script.path)})
    return recipe.model_copy(update=changes)
