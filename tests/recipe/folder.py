"""Small recipes on disk, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from launcher.errors import RequestError
from launcher.recipe.load import LoadedRecipe, load_recipe

TASK = """from launcher import Task


class Digits(Task):
    pass


class Letters(Task):
    pass
"""
RECIPE = """name: tiny
task:
  entry: task.py:Digits
batch: {global: 8, micro: 2}
train: {epochs: 2}
"""


def write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files, and the folders that they lie in."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def load(folder: Path, text: str = RECIPE, *overrides: str, **others: str) -> LoadedRecipe:
    """Load `recipe.yaml` with this text, beside `task.py` and other files (`base_yaml=...` is base.yaml)."""
    named = {name.replace("_", "."): content for name, content in others.items()}
    write(folder, {"task.py": TASK, "recipe.yaml": text, **named})
    return load_recipe(folder / "recipe.yaml", overrides)


def refusal(folder: Path, text: str = RECIPE, *overrides: str, **others: str) -> list[str]:
    """The sentences with which such a recipe is refused, without the folder's name."""
    with pytest.raises(RequestError) as caught:
        load(folder, text, *overrides, **others)
    return str(caught.value).replace(f"{folder}/", "").splitlines()
