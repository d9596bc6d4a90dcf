"""From the names in a recipe to the user's objects."""

from __future__ import annotations

import importlib
import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType

from launcher.recipe.schema import ScriptSection, TaskSection
from launcher.train.task import Task


def load_task(section: TaskSection) -> Task:
    """Import the task's class and make the task.

    Raises:
        TypeError: the entry is not a Task, or does not take the recipe's `task.args`.
    """
    source, _, name = section.entry.rpartition(":")
    module = _module_of_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    kind = getattr(module, name)
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise TypeError(f"{section.entry} is not a launcher.Task: let class {name} inherit from it")
    try:
        return kind(**section.args)
    except TypeError as error:
        raise TypeError(f"task.args {section.args} do not fit {name}: {error}") from error


def run_script(section: ScriptSection) -> object:
    """Run the user's script as Python would, with its own folder to import from and its own arguments.

    Returns:
        What it has left in its globals, which goes when this does.
    """
    sys.argv = [section.path, *section.args]
    sys.path.insert(0, str(Path(section.path).parent))
    return runpy.run_path(section.path, run_name="__main__")


def _module_of_file(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.parent))  # a task may import from beside itself
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # data-loading workers find the task's classes by this name
    spec.loader.exec_module(module)
    return module
