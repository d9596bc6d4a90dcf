"""Where a recipe's keys come from: its file, the files that it extends, and the command line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.errors import Mistake, RequestError
from launcher.recipe.keys import takes_text
from launcher.recipe.strict_yaml import parse_document, parse_scalar

COMMAND_LINE = "command line"
MAX_EXTENDS = 8


@dataclass(frozen=True)
class Source:
    """The keys of a recipe before they are checked.

    Attributes:
        data: nested mappings, as the files and overrides give them.
        marks: dotted key → `file:line` or `command line`, for messages.
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
            source = _overlay(source, _override(override, path.parent))
        except RequestError as error:
            mistakes.extend(error.mistakes)
    if mistakes:
        raise RequestError(mistakes)
    return source


def _read_file(path: Path, chain: tuple[Path, ...]) -> Source:
    name = os.path.normpath(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RequestError([_unreadable(path, error)]) from None
    parsed = parse_document(raw, name)
    data = dict(parsed.value)
    marks = {key: f"{name}:{line}" for key, line in parsed.lines.items()}
    extends = data.pop("extends", None)
    own = Source(data, marks, dict.fromkeys(marks, path.parent.absolute()))
    if extends is None:
        return own
    if not isinstance(extends, str):
        raise RequestError([Mistake("extends", "must be the path of another recipe", where=marks["extends"])])
    parent = path.parent / extends
    seen = (*chain, path.resolve())
    if parent.resolve() in seen or len(seen) > MAX_EXTENDS:
        wrong = f"{extends} leads back to this file" if parent.resolve() in seen else f"more than {MAX_EXTENDS} levels"
        raise RequestError([Mistake("extends", wrong, "Let each recipe extend a simpler one", marks["extends"])])
    if not parent.is_file():
        raise RequestError([Mistake("extends", f"there is no file {os.path.normpath(parent)}", where=marks["extends"])])
    return _overlay(_read_file(parent, seen), own)


def _unreadable(path: Path, error: OSError) -> Mistake:
    name = os.path.normpath(path)
    if path.is_dir():
        return Mistake("", "this is a folder", f"Name the recipe in it, such as {name}/recipe.yaml", name)
    if not isinstance(error, FileNotFoundError):
        return Mistake("", f"cannot be read: {error.strerror}", where=name)
    near = difflib.get_close_matches(path.name, [entry.name for entry in _siblings(path)], 1)
    cure = f"Did you mean {os.path.normpath(path.parent / near[0])}" if near else "Check the path"
    return Mistake("", "there is no such file", cure + ("?" if near else ""), name)


def _siblings(path: Path) -> list[Path]:
    return list(path.parent.iterdir()) if path.parent.is_dir() else []


def _override(text: str, folder: Path) -> Source:
    key, equals, value_text = text.partition("=")
    if not equals or not key or not all(key.split(".")):
        raise RequestError(
            [Mistake("", f"{text!r} is not key=value", "Write for example batch.global=256", COMMAND_LINE)]
        )
    value: Any = value_text
    if not takes_text(key):
        try:
            value = parse_scalar(value_text)
        except ValueError:
            raise RequestError([Mistake(key, f"{value_text!r} is not a value", where=COMMAND_LINE)]) from None
    elif value_text in ("null", "~", ""):
        value = None
    for part in reversed(key.split(".")):
        value = {part: value}
    return Source(value, {key: COMMAND_LINE}, {key: folder.absolute()})


def _overlay(under: Source, over: Source) -> Source:
    return Source(
        _merge(under.data, over.data),
        {**under.marks, **over.marks},
        {**under.folders, **over.folders},
    )


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
