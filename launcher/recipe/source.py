"""Where a recipe's keys come from: its file, the files that it extends, and the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.errors import Mistake, RequestError, quoted
from launcher.recipe.files import RECIPES, cure_for_missing, is_file, is_folder, shown
from launcher.recipe.keys import fragment, takes_text
from launcher.recipe.strict_yaml import MAX_BYTES, MAX_DEPTH, Parsed, check_text, parse_document, parse_value

COMMAND_LINE = "command line"
MAX_EXTENDS = 8


@dataclass(frozen=True)
class Source:
    """The keys of a recipe before they are checked.

    Attributes:
        data: nested mappings, as the files and overrides give them.
        marks: dotted key → `file:line` or `command line`, for messages; the empty key is the file itself.
        folders: dotted key → folder that the key's relative paths start from.
    """

    data: dict[str, Any]
    marks: dict[str, str] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)


def read_source(path: Path, overrides: Sequence[str] = ()) -> Source:
    """Read a recipe file, the files that it extends, and `key.path=value` overrides, later ones winning.

    Raises:
        RequestError: a file cannot be read or is not YAML, `extends` runs in a circle, or an override has no `=`.
    """
    source = _read_file(path, chain=())
    mistakes: list[Mistake] = []
    for override in overrides:
        try:
            source = _with_override(source, override, path.parent.absolute())
        except RequestError as error:
            mistakes.extend(error.mistakes)
    if mistakes:
        raise RequestError(mistakes)
    return source


def _read_file(path: Path, chain: tuple[Path, ...]) -> Source:
    name = shown(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise RequestError([_unreadable(path, error)]) from None
    parsed = parse_document(raw, name)
    data = dict(parsed.value)
    marks = {"": name, **{key: f"{name}:{line}" for key, line in parsed.lines.items()}}
    extends = data.pop("extends", None)
    own = Source(data, marks, dict.fromkeys(marks, path.parent.absolute()))
    if extends is None:
        return own
    base, chain = _extended(path, extends, (*chain, path), marks["extends"])
    return _overlay(_read_file(base, chain), own)


def _extended(path: Path, extends: Any, chain: tuple[Path, ...], where: str) -> tuple[Path, tuple[Path, ...]]:
    """The file that `extends` names, checked, and the files that lead to it."""
    if not isinstance(extends, str) or not extends:
        raise RequestError(
            [Mistake("extends", "must be the path of another recipe", "Write for example extends: base.yaml", where)]
        )
    base = path.parent / extends
    if not is_file(base):
        wrong = f"{shown(base)} is a folder" if is_folder(base) else f"there is no file {shown(base)}"
        cure = cure_for_missing(base, RECIPES, "Paths start from the folder of this file", path)
        raise RequestError([Mistake("extends", wrong, cure, where)])
    if base.resolve() in [file.resolve() for file in chain]:
        circle = " → ".join(shown(file) for file in (*chain, base))
        raise RequestError([Mistake("extends", f"a circle: {circle}", "Let each recipe extend a simpler one", where)])
    if len(chain) > MAX_EXTENDS:
        wrong = f"more than {MAX_EXTENDS} recipes, each extending the next"
        raise RequestError([Mistake("extends", wrong, "Let each recipe extend a simpler one", where)])
    return base, chain


def _unreadable(path: Path, error: OSError | ValueError) -> Mistake:
    name = shown(path)
    if is_folder(path):
        return Mistake("", "this is a folder", cure_for_missing(path, RECIPES, ""), name)
    if isinstance(error, FileNotFoundError):
        return Mistake("", "there is no such file", cure_for_missing(path, RECIPES, "Check the path"), name)
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return Mistake("", f"cannot be read: {reason}", "Check the path and its permissions", name)


def _with_override(source: Source, text: str, folder: Path) -> Source:
    key, value = _override(text)
    parts = key.split(".")
    data = value.value
    for part in reversed(parts):
        data = {part: data}
    keys = [key, *(f"{key}.{below.lstrip('.')}" for below in value.lines)]
    over = Source(data, dict.fromkeys(keys, COMMAND_LINE), dict.fromkeys(keys, folder))
    merged = _overlay(source, over)
    if value.value is None and fragment(key):
        _delete(merged.data, parts)  # null unsets, also what is not there
    for parent in _parents(key):
        merged.marks.setdefault(parent, COMMAND_LINE)
    return merged


def _override(text: str) -> tuple[str, Parsed]:
    """The key of a `key.path=value` string, and its value as the schema types it."""
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals or not all(parts) or not (key.isascii() and key.isprintable()) or len(parts) > MAX_DEPTH:
        raise RequestError(
            [Mistake("", f"{quoted(text)} is not key=value", "Write for example batch.global=256", COMMAND_LINE)]
        )
    if parts[0] == "extends":
        cure = "Write it in the recipe, or name the other recipe"
        raise RequestError([Mistake(key, "cannot be given here", cure, COMMAND_LINE)])
    if not value.strip():
        raise RequestError([Mistake(key, "has no value", f"Write {key}=null to unset it", COMMAND_LINE)])
    if takes_text(key):
        check_text(value, key, COMMAND_LINE)
        return key, Parsed(None if value in ("null", "~") else value)
    return key, parse_value(value, key, COMMAND_LINE)


def _overlay(under: Source, over: Source) -> Source:
    replaced: set[str] = set()
    data = _merge(under.data, over.data, "", replaced)

    def stands(key: str) -> bool:
        return replaced.isdisjoint((key, *_parents(key)))

    return Source(
        data,
        {**{key: mark for key, mark in under.marks.items() if stands(key)}, **over.marks},
        {**{key: folder for key, folder in under.folders.items() if stands(key)}, **over.folders},
    )


def _merge(under: dict[str, Any], over: dict[str, Any], path: str, replaced: set[str]) -> dict[str, Any]:
    """Mappings merge, all else is replaced; null unsets, but in `task.args`, where it is a value like others."""
    merged = dict(under)
    for key, value in over.items():
        dotted = f"{path}.{key}" if path else key
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merge(below, value, dotted, replaced)
            continue
        replaced.add(dotted)
        if value is None and key in merged and fragment(dotted):
            del merged[key]
        else:
            merged[key] = value
    return merged


def _delete(data: dict[str, Any], parts: Sequence[str]) -> None:
    for part in parts[:-1]:
        data = data[part]
    data.pop(parts[-1], None)


def _parents(key: str) -> Iterator[str]:
    while "." in key:
        key = key.rpartition(".")[0]
        yield key
