"""What the code that a recipe names says of itself, read without running any of it."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from pathlib import Path

from launcher.errors import Mistake
from launcher.recipe.schema import Recipe


def missing_code(recipe: Recipe) -> Iterator[Mistake]:
    """Files and classes that the recipe names and that are not there."""
    if recipe.script and not Path(recipe.script.path).is_file():
        yield Mistake("script.path", f"there is no file {recipe.script.path}", "Check the path")
    file, _, name = (recipe.task.entry if recipe.task else "").rpartition(":")
    if not file.endswith(".py"):
        return
    if not Path(file).is_file():
        yield Mistake("task.entry", f"there is no file {file}", "Paths start from the folder of the recipe")
        return
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (SyntaxError, ValueError) as error:
        yield Mistake("task.entry", f"{file} is not Python: {error}", "Correct the file")
        return
    names = _bound_names(tree)
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        cure = f"Did you mean {near[0]}?" if near else "Name the class that is your task"
        yield Mistake("task.entry", f"{file} has no class {name}", cure)


def batchnorm_uses(recipe: Recipe) -> tuple[str, ...]:
    """Places in the task's file that name a BatchNorm layer, as `task.py:31 BatchNorm2d`.

    Layers that see the whole micro-batch make accumulation differ from the big batch, and the plan must say so
    before torch is imported. A task from an installed package is not read.
    """
    file = (recipe.task.entry if recipe.task else "").rpartition(":")[0]
    if not file.endswith(".py"):
        return ()
    found = {
        (node.lineno, name)
        for node in ast.walk(ast.parse(Path(file).read_bytes()))
        if isinstance(node, ast.Attribute | ast.Name)
        and "BatchNorm" in (name := node.attr if isinstance(node, ast.Attribute) else node.id)
    }
    return tuple(f"{Path(file).name}:{line} {name}" for line, name in sorted(found))


def _bound_names(tree: ast.Module) -> set[str]:
    """Names that a module binds at its top: a task may be written, imported or made there."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names
