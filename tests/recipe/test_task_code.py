"""What is read of the user's code before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.recipe.load import load_recipe
from launcher.recipe.task_code import batchnorm_uses
from tests.faults.table import Kind
from tests.recipe.folder import RECIPE, load, refusal, write


def says(folder: Path, code: str | bytes, entry: str = "task.py:Digits") -> list[str]:
    """The mistakes of a recipe whose task has this code."""
    load(folder)
    write(folder, {"task.py": code, "recipe.yaml": RECIPE.replace("task.py:Digits", entry)})
    try:
        load_recipe(folder / "recipe.yaml")
    except Exception as error:
        return str(error).replace(f"{folder}/", "").splitlines()
    return []


@pytest.mark.parametrize(
    "code",
    [
        "class Digits: pass",
        "from elsewhere import Digits",
        "from elsewhere import Numbers as Digits",
        "from elsewhere import *",
        "Digits = make_task(10)",
        "Digits: type = make_task(10)",
        "Letters, Digits = make_tasks()",
        "try:\n    from fast import Digits\nexcept ImportError:\n    class Digits: pass",
        "if True:\n    class Digits: pass",
        "with context() as Digits: pass",
        "def __getattr__(name): return object",
        "(Digits := type('Digits', (), {}))",
    ],
)
def test_a_class_may_come_from_anywhere(tmp_path: Path, code: str) -> None:
    assert says(tmp_path, code) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("class Digit: pass", "task.py has no class Digits. Did you mean Digit?"),
        ("class Zoo: pass\nclass Apes: pass", "task.py has no class Digits. Its classes are Apes, Zoo."),
        ("", "task.py has no class Digits. Write class Digits(Task) in it."),
        ("def Digits(): pass", "task.py has no class Digits. Write class Digits(Task) in it."),
        ("def f():\n    class Digits: pass", "task.py has no class Digits. Write class Digits(Task) in it."),
        ("class Zoo:\n    class Digits: pass", "task.py has no class Digits. Its classes are Zoo."),
        ("x = lambda Digits: 1", "task.py has no class Digits. Write class Digits(Task) in it."),
        ("import torch\nclass Digits(:\n    pass", "task.py:2 is not Python: invalid syntax. Correct the file."),
        (b"class Digits: pass\n\0", "task.py is not Python: source code string cannot contain null bytes."),
        (b"# coding: nonsense\nclass Digits: pass", "task.py is not Python: unknown encoding: nonsense."),
        ("x = " + "-" * 200_000 + "1", "task.py "),  # Pythons differ in what they find too deep
        ("x = 1" + "+1" * 100_000, "task.py "),
        ("x = " + "(" * 1000, "task.py:1 is not Python: "),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_a_file_does_not_have(tmp_path: Path, code: str | bytes, message: str) -> None:
    (mistake,) = says(tmp_path, code)
    assert mistake.startswith(f"recipe.yaml:3: task.entry: {message}")


@pytest.mark.fault(
    Kind.REQUEST,
    "code that must not run before it is asked for",
    by="a task file with side effects",
    outcome="read, not run, by `plan` and by what is refused",
)
def test_code_is_read_and_never_run(tmp_path: Path) -> None:
    code = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass Digits: pass\nraise SystemExit(1)\n"
    assert says(tmp_path, code) == []
    assert not (tmp_path / "ran").exists()


def test_warnings_of_the_code_wait_until_it_runs(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert says(tmp_path, 'class Digits:\n    pattern = "\\d"\n') == []
    assert not recwarn.list


@pytest.mark.fault(
    Kind.REQUEST,
    "an entry that is no task",
    by="files, classes and words that are none",
    outcome="refused before anything starts, without an import",
)
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("tsk.py:Digits", "there is no file tsk.py. Did you mean task.py?"),
        ("zoo/zebra.py:Digits", "there is no file zoo/zebra.py. Paths start from the folder of the recipe."),
        ("folder.py:Digits", "folder.py is a folder. Name a file in it, such as folder.py/inner.py."),
        ("task.py", "must be file.py:Class or package.module:Class, not 'task.py'."),
        ("tasks/digits:Digits", "must be file.py:Class or package.module:Class, not 'tasks/digits:Digits'."),
        ("task.py:Dig its", "must be file.py:Class or package.module:Class, not 'task.py:Dig its'."),
    ],
)
def test_entries_that_lead_nowhere(tmp_path: Path, entry: str, message: str) -> None:
    write(tmp_path, {"folder.py/inner.py": ""})
    assert says(tmp_path, "class Digits: pass", entry) == [f"recipe.yaml:3: task.entry: {message}"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("trian.py", "there is no file trian.py. Did you mean train.py?"),
        ("bad.py", "bad.py:2 is not Python: '(' was never closed. Correct the file."),
    ],
)
def test_scripts_are_read_too(tmp_path: Path, script: str, message: str) -> None:
    write(tmp_path, {"train.py": "pass\n", "bad.py": "\nprint(\n"})
    text = f"script: {{path: {script}}}\nbatch: {{global: 8, micro: 2}}\n"
    assert refusal(tmp_path, text) == [f"recipe.yaml:1: script.path: {message}"]


def test_layers_that_see_the_micro_batch_are_found(tmp_path: Path) -> None:
    code = (
        "from torch import nn\n\nclass Digits:\n    a = nn.BatchNorm2d(8)\n    b = BatchNorm1d\n    c = 'BatchNorm3d'\n"
    )
    recipe = load(tmp_path).recipe
    assert batchnorm_uses(recipe) == ()
    write(tmp_path, {"task.py": code})
    assert batchnorm_uses(recipe) == ("task.py:4 BatchNorm2d", "task.py:5 BatchNorm1d")
