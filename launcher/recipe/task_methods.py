"""Which methods for its losses a task writes, read from its source without running any of it."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from pathlib import Path

from launcher.errors import Mistake
from launcher.recipe.schema import MultitaskSection, Recipe
from launcher.recipe.task_code import parse

LOSS_METHODS = ("loss", "trunk", "heads")


def written_methods(recipe: Recipe) -> frozenset[str] | None:
    """Which of `loss`, `trunk` and `heads` the task writes; None if only running its code would tell.

    It can be told of a class in a file that inherits from `Task`, or from another such class in the file.
    """
    file, _, name = (recipe.task.entry if recipe.task else "").rpartition(":")
    return _Source(parse(Path(file))).methods_of(name) if file.endswith(".py") else None


def heads_that_are_missing(recipe: Recipe) -> Iterator[Mistake]:
    """The mistake of a recipe that asks for `multitask.backward=shared` of a task that certainly lacks heads."""
    written = written_methods(recipe)
    if recipe.task and written is not None:
        yield from shared_needs_heads(recipe.multitask, recipe.task.entry.rpartition(":")[2], written)


def shared_needs_heads(section: MultitaskSection, task: str, written: Collection[str]) -> Iterator[Mistake]:
    """Edition 3 is made of a trunk and its heads.

    Args:
        section: the recipe's `multitask` section.
        task: name of the task's class.
        written: the methods that it writes.
    """
    missing = [method for method in ("trunk", "heads") if method not in written]
    if section.backward == "shared" and missing:
        to_write = " and ".join(f"Task.{method}" for method in missing)
        yield Mistake(
            "multitask.backward",
            f"shared needs a trunk and heads on it, and {task} does not write {' and '.join(missing)}",
            f"Write {to_write}, or set multitask.backward=sequential or joint",
        )


class _Source:
    """The classes of a file.

    Args:
        module: its code.
    """

    def __init__(self, module: ast.Module) -> None:
        self._tops = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
        self._bound = [name for node in ast.walk(module) for name in _names_bound_by(node)]
        self._tasks = {"launcher.Task", *_imported_tasks(module)}
        # Classes that are given attributes from outside, which may be methods.
        self._patched = {name for node in ast.walk(module) for name in _names_patched_by(node)}

    def methods_of(self, name: str) -> frozenset[str] | None:
        """The methods that a class writes or inherits; None if they cannot be told."""
        if name in self._tasks:
            return frozenset()
        found = self._tops.pop(name, None)  # which ends the search where classes inherit from each other
        if found is None or name in self._patched or self._bound.count(name) > 1:
            return None
        if found.decorator_list or found.keywords:
            return None
        methods = _names_in_body(found).intersection(LOSS_METHODS)
        for base in found.bases:
            inherited = self.methods_of(ast.unparse(base))
            if inherited is None:
                return None
            methods |= inherited
        return methods


def _imported_tasks(module: ast.Module) -> Iterator[str]:
    """Names under which the file imports `launcher.Task`."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module in ("launcher", "launcher.train.task"):
            yield from (alias.asname or alias.name for alias in node.names if alias.name == "Task")


def _names_in_body(found: ast.ClassDef) -> frozenset[str]:
    """What a class binds, also under `if` or `try`."""
    names: set[str] = set()
    nodes: list[ast.AST] = list(found.body)
    while nodes:
        node = nodes.pop()
        names.update(_names_bound_by(node))
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            nodes.extend(ast.iter_child_nodes(node))
    return frozenset(names)


def _names_patched_by(node: ast.AST) -> Iterator[str]:
    """`name.attribute = ...` and `setattr(name, ...)`."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
        yield node.value.id
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
        yield from (argument.id for argument in node.args[:1] if isinstance(argument, ast.Name))


def _names_bound_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
