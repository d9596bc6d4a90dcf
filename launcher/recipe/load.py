"""From a file and overrides to a checked `Recipe`, or to every mistake in it at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from launcher.errors import Mistake, RequestError, nearest_mark, quoted
from launcher.recipe.files import RECIPES, missing_file
from launcher.recipe.keys import cure, expectation, fragment, fragment_at, name_expectation, suggestion
from launcher.recipe.rules import broken_rules
from launcher.recipe.schema import Recipe
from launcher.recipe.secret_values import secrets_in
from launcher.recipe.secret_variables import secret_variables_in
from launcher.recipe.source import Source, read_source
from launcher.recipe.task_code import missing_code
from launcher.recipe.task_methods import heads_that_are_missing

MAX_MISTAKES = 50  # shown of one recipe


@dataclass(frozen=True)
class LoadedRecipe:
    """A checked recipe, and where each of its keys stands.

    Attributes:
        recipe: the recipe, its file paths absolute.
        path: the recipe file, as the user named it.
        marks: dotted key → `file:line` or `command line`; the empty key is the file itself.
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
    # Before any other mistake is told, which could show one; what is known by its place has the better cure.
    secrets = {mistake.key: mistake for mistake in (*secrets_in(source.data), *secret_variables_in(source.data))}
    if secrets:
        raise RequestError(secrets.values()).located(source.marks)
    mistakes, recipe = _validate(source)
    recipe = _with_absolute_paths(recipe, source, path)
    mistakes += list(missing_code(recipe)) or heads_that_are_missing(recipe)
    mistakes += missing_file("launch.accelerate.config_file", recipe.launch.accelerate.config_file, RECIPES)
    if mistakes:
        located = RequestError(mistakes).located(source.marks)
        raise RequestError(sorted(located.mistakes, key=lambda mistake: _place(mistake.where)))
    return LoadedRecipe(recipe, path, source.marks)


def _validate(source: Source) -> tuple[list[Mistake], Recipe]:
    """Check the types and the rules.

    Sections with a wrong value are taken out and the rules are checked on the others, so that one command
    reports all that can be known; the recipe is then not the one that was asked for.
    """
    try:
        recipe = _typed(source.data)
        return list(broken_rules(recipe)), recipe
    except ValidationError as error:
        errors = error.errors(include_url=False)
    broken = {str(error["loc"][0]) for error in errors}
    sound = _typed({key: value for key, value in source.data.items() if key not in broken})
    mistakes = list(_type_mistakes(errors[:MAX_MISTAKES], source))
    if len(errors) > MAX_MISTAKES:
        mistakes.append(Mistake("", f"{len(errors):,} mistakes; {MAX_MISTAKES} are shown", "Correct these first"))
    return [*mistakes, *broken_rules(sound, broken)], sound


def _typed(data: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(data, by_alias=True, by_name=False)


def _type_mistakes(errors: list[ErrorDetails], source: Source) -> Iterator[Mistake]:
    reported: set[str] = set()
    for error in errors:
        path = _path_of(error)
        key = ".".join(path)
        if key in reported:
            continue  # one mistake for a value, however many of the types it could have had
        reported.add(key)
        if error["type"] == "extra_forbidden":
            yield Mistake(key, "unknown key", _cure_for_unknown(key, error["loc"]))
        elif error["type"] == "missing" and key == ".".join(str(part) for part in error["loc"]):
            yield Mistake(key, f"is missing: it must be {expectation(fragment_at(path) or {})}", "Add it")
        else:
            yield _wrong_value(path, error["loc"], source)


def _cure_for_unknown(key: str, loc: tuple[int | str, ...]) -> str:
    if fragment(key) is not None:  # a key with a dot in it, as on the command line
        *parents, word = key.split(".")
        return f"In a file, write {word} under {'.'.join(parents)}"
    near = suggestion(key)
    if near:
        return f"Did you mean {near}?"
    above = [str(part) for part in loc[:-1]]
    return f"{'.'.join(above) or 'A recipe'} has the keys {', '.join((fragment_at(above) or {}).get('properties', {}))}"


def _wrong_value(path: list[str], loc: tuple[int | str, ...], source: Source) -> Mistake:
    key, value = ".".join(path), _value_at(source.data, path)
    node, which, where = fragment_at(path) or {}, "", ""
    entry = loc[len(path)] if len(loc) > len(path) else None
    if isinstance(entry, int) and isinstance(value, list) and entry < len(value):
        node, value, which = fragment_at([*path, "0"]) or {}, value[entry], f"entry {entry + 1} "
        where = nearest_mark(source.marks, f"{key}.{entry}")
    elif isinstance(entry, str) and isinstance(value, dict) and entry in value:  # the name of an entry is what is wrong
        return Mistake(key, f"{quoted(entry)} cannot be a name here", f"It must be {name_expectation(node)}")
    return Mistake(
        key, f"{which}must be {expectation(node, value)}, not {_shown(value)}", cure(key, node, value), where
    )


def _path_of(error: ErrorDetails) -> list[str]:
    """The words of an error's key: pydantic appends the names of the types that it tried, which are no keys."""
    parts = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        return parts
    while len(parts) > 1 and (fragment_at(parts) is None or parts[-1].isdigit()):
        parts.pop()
    return parts


def _place(where: str) -> tuple[str, int]:
    """Sort key of a mistake's place: by file, and by line as a number."""
    file, _, line = where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (where, 0)


def _value_at(data: Any, path: Iterable[str]) -> Any:
    for part in path:
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
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        return "a list of mappings"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _with_absolute_paths(recipe: Recipe, source: Source, path: Path) -> Recipe:
    """Paths in a recipe start from the file that gives them, so that a resolved recipe works from anywhere."""
    changes: dict[str, Any] = {}
    if recipe.task and recipe.task.entry.rpartition(":")[0].endswith(".py"):
        folder = source.folders.get("task.entry", path.parent.absolute())
        changes["task"] = recipe.task.model_copy(update={"entry": str(folder / recipe.task.entry)})
    if recipe.script:
        folder = source.folders.get("script.path", path.parent.absolute())
        changes["script"] = recipe.script.model_copy(update={"path": str(folder / recipe.script.path)})
    config = recipe.launch.accelerate.config_file
    if config:
        folder = source.folders.get("launch.accelerate.config_file", path.parent.absolute())
        accelerate = recipe.launch.accelerate.model_copy(update={"config_file": str(folder / config)})
        changes["launch"] = recipe.launch.model_copy(update={"accelerate": accelerate})
    return recipe.model_copy(update=changes)
