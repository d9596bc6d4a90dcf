"""What the code that a recipe names says of itself, read without running any of it."""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Iterator
from pathlib import Path

from launcher.errors import Mistake
from launcher.recipe.files import PYTHON, is_file, missing_file, shown
from launcher.recipe.schema import Recipe


def missing_code(recipe: Recipe) -> Iterator[Mistake]:
    """Files and classes that the recipe names and that are not there."""
    if recipe.script:
        yield from _broken_file("script.path", Path(recipe.script.path))
    file, _, name = (recipe.task.entry if recipe.task else "").rpartition(":")
    if not file.endswith(".py"):
        return
    broken = list(_broken_file("task.entry", Path(file)))
    yield from broken
    if not broken:
        yield from _missing_class(Path(file), name)


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
        for node in ast.walk(parse(Path(file)))
        if isinstance(node, ast.Attribute | ast.Name)
        and "BatchNorm" in (name := node.attr if isinstance(node, ast.Attribute) else node.id)
    }
    return tuple(f"{Path(file).name}:{line} {name}" for line, name in sorted(found))


def parse(path: Path) -> ast.Module:
    """The code of a file as a tree.

    Raises:
        SyntaxError, ValueError, OSError: it is not Python, or cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the file's own, such as invalid escapes; Python shows them when it runs it
        return ast.parse(path.read_bytes())


def _broken_file(key: str, path: Path) -> Iterator[Mistake]:
    if not is_file(path):
        yield from missing_file(key, str(path), PYTHON)
        return
    try:
        parse(path)
    except SyntaxError as error:
        place = f"{shown(path)}:{error.lineno}" if error.lineno else shown(path)
        yield Mistake(key, f"{place} is not Python: {error.msg}", "Correct the file")
    except (ValueError, RecursionError, MemoryError) as error:
        yield Mistake(key, f"{shown(path)} is not Python: {str(error) or 'nested too deep'}", "Correct the file")
    except OSError as error:
        yield Mistake(key, f"{shown(path)} cannot be read: {error.strerror}", "Check its permissions")


def _missing_class(path: Path, name: str) -> Iterator[Mistake]:
    names, classes, open_ended = _bound_names(parse(path))
    if name in names or open_ended:
        return
    near = difflib.get_close_matches(name, names, 1)
    cure = f"Its classes are {', '.join(sorted(classes)[:8])}" if classes else f"Write class {name}(Task) in it"
    yield Mistake("task.entry", f"{shown(path)} has no class {name}", f"Did you mean {near[0]}?" if near else cure)


def _bound_names(tree: ast.Module) -> tuple[set[str], set[str], bool]:
    """What a module binds at its top: names that may be a class, its own classes, and whether there may be more.

    A task may be written, imported or made there, also under `if` or `try`; after `from x import *`, or with a
    `__getattr__`, only running the module would tell.
    """
    names: set[str] = set()
    classes: set[str] = set()
    open_ended = False
    nodes: list[ast.AST] = list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.ClassDef):
            classes.add(node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            open_ended = open_ended or node.name == "__getattr__"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            nodes.extend(ast.iter_child_nodes(node))
    return names | classes, classes, open_ended or "*" in names
