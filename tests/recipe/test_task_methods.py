from __future__ import annotations

from pathlib import Path

import pytest

from launcher.recipe.task_methods import written_methods
from tests.recipe.folder import RECIPE, load, refusal

TASK = "from launcher import Task\n"
LOSS, TRUNK, HEADS = "    def loss(self): ...\n", "    def trunk(self): ...\n", "    def heads(self): ...\n"


@pytest.mark.parametrize(
    ("code", "written"),
    [
        (f"{TASK}class Digits(Task):\n{LOSS}", {"loss"}),
        (f"{TASK}class Digits(Task):\n{TRUNK}{HEADS}", {"trunk", "heads"}),
        (f"{TASK}class Base(Task):\n{TRUNK}{HEADS}\nclass Digits(Base):\n{LOSS}", {"loss", "trunk", "heads"}),
        (f"{TASK}class Digits(Task):\n  if True:\n    def loss(self): ...\n", {"loss"}),
        (f"{TASK}def loss(self): ...\nclass Digits(Task):\n    heads = loss\n", {"heads"}),
        (f"{TASK}class Digits(Task):\n    def model(self):\n        heads = 1\n        self.trunk = 2\n", set()),
        (f"{TASK}class Net:\n    def __init__(self):\n        self.heads = 1\nclass Digits(Task):\n{LOSS}", {"loss"}),
        (f"import launcher\nclass Digits(launcher.Task):\n{LOSS}", {"loss"}),
        (f"from launcher import Task as Base\nclass Digits(Base):\n{LOSS}", {"loss"}),
        ("class Digits: pass", set()),
    ],
)
def test_methods_are_read(tmp_path: Path, code: str, written: set[str]) -> None:
    assert written_methods(load(tmp_path, task_py=code).recipe) == frozenset(written)


@pytest.mark.parametrize(
    "code",
    [
        "from elsewhere import Digits",
        f"from elsewhere import Base\nclass Digits(Base):\n{LOSS}",
        f"from elsewhere import Task\nclass Digits(Task):\n{LOSS}",
        f"{TASK}from elsewhere import Mixin\nclass Digits(Mixin, Task):\n{LOSS}",
        f"{TASK}from elsewhere import with_heads\n@with_heads\nclass Digits(Task):\n{LOSS}",
        f"{TASK}class Digits(Task, metaclass=type):\n{LOSS}",
        f"{TASK}class Digits(Task):\n{LOSS}\nDigits.heads = print",
        f"{TASK}class Digits(Task):\n{LOSS}\nsetattr(Digits, 'heads', print)",
        f"{TASK}class Digits(Task):\n{LOSS}\nDigits = with_heads(Digits)",
        f"{TASK}if True:\n    class Digits(Task): pass",
        f"{TASK}class Base(Digits): pass\nclass Digits(Base): pass",
    ],
)
def test_what_only_running_the_code_would_tell_is_not_guessed(tmp_path: Path, code: str) -> None:
    recipe = load(tmp_path, RECIPE, "multitask.backward=shared", task_py=code).recipe
    assert written_methods(recipe) is None


def test_a_package_is_not_read(tmp_path: Path) -> None:
    assert written_methods(load(tmp_path, RECIPE, "task.entry=package.module:Task").recipe) is None


@pytest.mark.parametrize(
    ("methods", "missing", "cure"),
    [
        (LOSS, "trunk and heads", "Task.trunk and Task.heads"),
        (LOSS + HEADS, "trunk", "Task.trunk"),
        (TRUNK, "heads", "Task.heads"),
    ],
)
def test_shared_without_heads_is_refused(tmp_path: Path, methods: str, missing: str, cure: str) -> None:
    text = f"{RECIPE}multitask: {{losses: {{a: 1.0}}, backward: shared}}\n"
    assert refusal(tmp_path, text, task_py=f"{TASK}class Digits(Task):\n{methods}") == [
        "recipe.yaml:6: multitask.backward: shared needs a trunk and heads on it, and Digits does not write "
        f"{missing}. Write {cure}, or set multitask.backward=sequential or joint."
    ]
    load(tmp_path, text, task_py=f"{TASK}class Digits(Task):\n{TRUNK}{HEADS}")
