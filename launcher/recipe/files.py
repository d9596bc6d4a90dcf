"""Files that a recipe names: whether they are there, and what was probably meant where they are not."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from launcher.errors import Mistake

RECIPES = (".yaml", ".yml")
PYTHON = (".py",)
MAX_LISTED = 1000  # files of a folder that are looked at for a suggestion


def is_file(path: Path) -> bool:
    """Whether there is such a file; names that no file can have, and folders that may not be read, have none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is such a folder, as `is_file`."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def without_dots(path: Path) -> Path:
    """A path that leads to the same file without going up by "..": other machines may lack the folders that it left.

    What is before a ".." may be a link, and is left for where that leads. Other links stay as they are named: where
    they lead may be different elsewhere.
    """
    plain = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        plain = Path(os.path.realpath(plain)).parent if part == ".." else plain / part
    return plain


def shown(path: Path) -> str:
    """A path as messages name it."""
    name = os.path.normpath(path)
    return name if len(name) <= 200 else f"{name[:100]}...{name[-97:]}"


def missing_file(key: str, name: str | None, suffixes: tuple[str, ...]) -> Iterator[Mistake]:
    """The mistake of a key that names a file which is not there.

    Args:
        key: the key.
        name: the file; None where the recipe names none.
        suffixes: how names of such files end.
    """
    if name is None or is_file(Path(name)):
        return
    path = Path(name)
    wrong = f"{shown(path)} is a folder" if is_folder(path) else f"there is no file {shown(path)}"
    yield Mistake(key, wrong, cure_for_missing(path, suffixes, "Paths start from the folder of the recipe"))


def cure_for_missing(path: Path, suffixes: tuple[str, ...], otherwise: str, named_by: Path | None = None) -> str:
    """What to do about a file that is not there.

    Args:
        path: the file that was named.
        suffixes: how names of such files end.
        otherwise: the cure where no other file has a name like it.
        named_by: the file that names it, which is not what was meant.
    """
    if is_folder(path):
        inside = sorted(_names(path, suffixes), key=lambda name: name != "recipe.yaml")
        return f"Name a file in it, such as {shown(path / inside[0])}" if inside else "Name a file"
    others = {Path(name).stem: name for name in _names(path.parent, suffixes) if path.with_name(name) != named_by}
    near = difflib.get_close_matches(path.stem, others, 1)
    return f"Did you mean {shown(path.parent / others[near[0]])}?" if near else otherwise


def _names(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    try:
        return sorted(entry.name for entry in islice(folder.iterdir(), MAX_LISTED) if entry.suffix in suffixes)
    except (OSError, ValueError):
        return []
