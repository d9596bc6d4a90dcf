"""Where keys come from: the file, the files that it extends, the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from launcher.recipe.load import load_recipe
from launcher.recipe.schema import StageSection
from launcher.recipe.source import MAX_EXTENDS, read_source
from tests.recipe.folder import RECIPE, TASK, load, refusal, write

BASE = """name: base
task: {entry: task.py:Digits, args: {hidden: 64, sizes: [1, 2, 3], labels: {a: 1, b: 2}}}
batch: {global: 8, micro: 2}
train: {epochs: 2, max_grad_norm: 1.0}
optimizer: {name: sgd, momentum: 0.9}
"""


def test_a_recipe_inherits_what_it_does_not_say(tmp_path: Path) -> None:
    recipe = load(tmp_path, "extends: base.yaml\nname: child\nbatch: {micro: 4}\n", base_yaml=BASE).recipe
    assert (recipe.name, recipe.batch.global_, recipe.batch.micro) == ("child", 8, 4)
    assert (recipe.optimizer.name, recipe.optimizer.momentum) == ("sgd", 0.9)


def test_mappings_merge_deeply_and_lists_are_replaced(tmp_path: Path) -> None:
    text = "extends: base.yaml\ntask: {args: {sizes: [9], labels: {b: 3, c: 4}}}\n"
    recipe = load(tmp_path, text, base_yaml=BASE).recipe
    assert recipe.task is not None
    assert recipe.task.args == {"hidden": 64, "sizes": [9], "labels": {"a": 1, "b": 3, "c": 4}}


def test_null_unsets_what_was_inherited(tmp_path: Path) -> None:
    text = "extends: base.yaml\ntrain: {epochs: null, updates: 5, max_grad_norm: ~}\noptimizer: null\n"
    recipe = load(tmp_path, text, base_yaml=BASE).recipe
    assert (recipe.train.epochs, recipe.train.updates, recipe.train.max_grad_norm) == (None, 5, None)
    assert (recipe.optimizer.name, recipe.optimizer.momentum) == ("adamw", 0.0)  # back to the defaults


def test_null_is_a_value_for_a_task(tmp_path: Path) -> None:
    recipe = load(tmp_path, "extends: base.yaml\ntask: {args: {hidden: null}}\n", "task.args.x=null", base_yaml=BASE)
    assert recipe.recipe.task is not None
    assert recipe.recipe.task.args["hidden"] is None
    assert recipe.recipe.task.args["x"] is None


def test_a_script_can_take_the_place_of_an_inherited_task(tmp_path: Path) -> None:
    write(tmp_path, {"train.py": "pass\n"})
    recipe = load(
        tmp_path,
        "extends: base.yaml\ntask: null\nscript: {path: train.py}\ntrain: {max_grad_norm: null}\n",
        base_yaml=BASE,
    ).recipe
    assert recipe.task is None
    assert recipe.script is not None


def test_recipes_extend_recipes_of_other_folders(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "shared/base.yaml": "extends: deep/root.yaml\nname: base\n",
            "shared/deep/root.yaml": BASE,
            "shared/deep/task.py": TASK,
            "mine/recipe.yaml": "extends: ../shared/base.yaml\nname: mine\n",
        },
    )
    loaded = load_recipe(tmp_path / "mine" / "recipe.yaml")
    assert loaded.recipe.name == "mine"
    assert loaded.recipe.task is not None
    entry = Path(loaded.recipe.task.entry.rpartition(":")[0])
    assert entry.is_absolute()
    assert entry.samefile(tmp_path / "shared" / "deep" / "task.py")  # paths start from the file that gives them


def test_paths_start_from_the_file_that_gives_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path,
        {
            "shared/base.yaml": BASE,
            "shared/task.py": TASK,
            "mine/task.py": TASK,
            "mine/train.py": "",
            "mine/recipe.yaml": "extends: ../shared/base.yaml\n",
            "elsewhere/x": "",
        },
    )
    monkeypatch.chdir(tmp_path / "elsewhere")

    def entry(*overrides: str) -> Path:
        task = load_recipe(Path("../mine/recipe.yaml"), overrides).recipe.task
        assert task is not None
        assert Path(task.entry).is_absolute()
        return Path(task.entry.rpartition(":")[0])

    assert entry().samefile(tmp_path / "shared" / "task.py")
    assert entry("task.entry=task.py:Letters").samefile(tmp_path / "mine" / "task.py")
    assert entry("task={entry: task.py:Letters}").samefile(tmp_path / "mine" / "task.py")
    assert entry(f"task.entry={tmp_path}/mine/task.py:Letters") == tmp_path / "mine" / "task.py"
    script = load_recipe(
        Path("../mine/recipe.yaml"), ["task=null", "script.path=train.py", "train.max_grad_norm=null"]
    ).recipe.script
    assert script is not None
    assert Path(script.path).is_absolute()
    assert Path(script.path).samefile(tmp_path / "mine" / "train.py")


def test_a_task_of_a_package_has_no_path(tmp_path: Path) -> None:
    task = load(tmp_path, RECIPE, "task.entry=my_package.tasks:Digits").recipe.task
    assert task is not None
    assert task.entry == "my_package.tasks:Digits"


def test_folders_may_have_colons(tmp_path: Path) -> None:
    folder = tmp_path / "12:30"
    task = load(folder).recipe.task
    assert task is not None
    assert task.entry == f"{folder}/task.py:Digits"
    assert load(folder, RECIPE.replace("task.py:Digits", task.entry)).recipe.task == task


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"recipe.yaml": "extends: recipe.yaml\n"}, "recipe.yaml:1: extends: a circle: recipe.yaml → recipe.yaml."),
        (
            {
                "recipe.yaml": "name: x\nextends: a.yaml\n",
                "a.yaml": "extends: sub/b.yaml\n",
                "sub/b.yaml": "train: {epochs: 1}\nextends: ../a.yaml\n",
            },
            "sub/b.yaml:2: extends: a circle: recipe.yaml → a.yaml → sub/b.yaml → a.yaml.",
        ),
    ],
    ids=["itself", "three files"],
)
def test_circles_are_shown(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path, files)
    assert refusal(tmp_path, files["recipe.yaml"]) == [f"{message} Let each recipe extend a simpler one."]


def test_a_circle_through_a_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").symlink_to("recipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert "a circle: recipe.yaml → other.yaml" in refusal(tmp_path, "extends: other.yaml\n")[0]
    assert "there is no file loop.yaml" in refusal(tmp_path, "extends: loop.yaml\n")[0]


def test_depth_is_bounded(tmp_path: Path) -> None:
    chain = {f"{level}.yaml": f"extends: {level + 1}.yaml\n" for level in range(1, MAX_EXTENDS)}
    write(tmp_path, {**chain, f"{MAX_EXTENDS}.yaml": RECIPE})
    assert load(tmp_path, "extends: 1.yaml\n").recipe.name == "tiny"
    write(tmp_path, {f"{MAX_EXTENDS}.yaml": "extends: 9.yaml\n", "9.yaml": RECIPE})
    assert refusal(tmp_path, "extends: 1.yaml\n") == [
        "8.yaml:1: extends: more than 8 recipes, each extending the next. Let each recipe extend a simpler one."
    ]


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("bas.yaml", "there is no file bas.yaml. Did you mean base.yaml?"),
        ("recipes.yaml", "there is no file recipes.yaml. Paths start from the folder of this file."),  # not itself
        (r'"\e[31m.yaml"', r"there is no file \x1b[31m.yaml. Paths start from the folder of this file."),
        ("gone.yaml", "there is no file gone.yaml. Paths start from the folder of this file."),
        ("sub", "sub is a folder. Name a file in it, such as sub/base.yaml."),
        ("5", "must be the path of another recipe. Write for example extends: base.yaml."),
        ("[base.yaml]", "must be the path of another recipe. Write for example extends: base.yaml."),
        ('""', "must be the path of another recipe. Write for example extends: base.yaml."),
    ],
)
def test_what_cannot_be_extended(tmp_path: Path, extends: str, message: str) -> None:
    write(tmp_path, {"sub/base.yaml": BASE})
    assert refusal(tmp_path, f"name: x\nextends: {extends}\n", base_yaml=BASE) == [f"recipe.yaml:2: extends: {message}"]


def test_extending_nothing_is_not_extending(tmp_path: Path) -> None:
    assert load(tmp_path, f"{RECIPE}extends: null\n").recipe.name == "tiny"


def test_names_that_no_file_has_are_no_crash(tmp_path: Path) -> None:
    for key in ("extends: {}", "script: {{path: {}}}", "task: {{entry: '{}.py:A'}}"):
        assert "there is no file" in refusal(tmp_path, f"{key.format('x' * 5000)}\n")[-1]


OVERRIDES: list[tuple[str, str, Any]] = [
    ("name=123", "name", "123"),
    ("name=1e-4", "name", "1e-4"),
    ("tracking.wandb.group=true", "tracking.wandb.group", "true"),
    ("tracking.wandb.group=a: b, [c]", "tracking.wandb.group", "a: b, [c]"),
    ("tracking.wandb.project=null", "tracking.wandb.project", None),
    ("tracking.wandb.tags=[a, 'b c']", "tracking.wandb.tags", ("a", "b c")),
    ("optimizer.lr=1e-4", "optimizer.lr", 1e-4),
    ("optimizer.lr=1", "optimizer.lr", 1.0),
    ("optimizer.lr=null", "optimizer.lr", 1e-3),
    ("optimizer.betas=[0.8, 0.9]", "optimizer.betas", (0.8, 0.9)),
    ("optimizer={lr: 2.0, eps: 1e-6}", "optimizer.eps", 1e-6),
    ("train.max_grad_norm=~", "train.max_grad_norm", None),
    ("eval.every=end", "eval.every", "end"),
    ("eval.every=5", "eval.every", 5),
    ("launch.nproc_per_node=4", "launch.nproc_per_node", 4),
    ("parallel.find_unused_parameters=true", "parallel.find_unused_parameters", True),
    ("task.args.hidden=8", "task.args", {"hidden": 8}),
    ("task.args.hidden=eight", "task.args", {"hidden": "eight"}),
    ("task.args.a.b=[1, {c: 0.5}]", "task.args", {"a": {"b": [1, {"c": 0.5}]}}),
    ("task.args.when=a=b", "task.args", {"when": "a=b"}),
    ("batch.tail=drop", "batch.tail", "drop"),
]


@pytest.mark.parametrize(("override", "key", "value"), OVERRIDES, ids=[override for override, _, _ in OVERRIDES])
def test_overrides_are_typed_by_the_schema(tmp_path: Path, override: str, key: str, value: Any) -> None:
    found: Any = load(tmp_path, RECIPE, override).recipe
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_null_unsets_on_the_command_line(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE, "train.epochs=null", "train.updates=7", "name=null").recipe
    assert (recipe.train.epochs, recipe.train.updates, recipe.name) == (None, 7, "run")


@pytest.mark.parametrize("value", ["null", "[]"])
def test_a_batch_schedule_is_unset_on_the_command_line(tmp_path: Path, value: str) -> None:
    given = "batch.schedule=[{global: 4, updates: 3}]"
    assert load(tmp_path, RECIPE, given).recipe.batch.schedule == (StageSection(global_=4, updates=3),)
    assert load(tmp_path, RECIPE, given, f"batch.schedule={value}").recipe.batch.schedule == ()


def test_later_overrides_win(tmp_path: Path) -> None:
    assert load(tmp_path, RECIPE, "batch.micro=4", "batch.micro=1").recipe.batch.micro == 1
    both = load(tmp_path, RECIPE, "task.args={a: 1, b: 1}", "task.args.b=2").recipe.task
    assert both is not None
    assert both.args == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch.global", "'batch.global' is not key=value. Write for example batch.global=256."),
        ("=5", "'=5' is not key=value. Write for example batch.global=256."),
        ("batch..micro=5", "'batch..micro=5' is not key=value. Write for example batch.global=256."),
        (".micro=5", "'.micro=5' is not key=value. Write for example batch.global=256."),
        ("optimizer.betas.²=5", "'optimizer.betas.²=5' is not key=value. Write for example batch.global=256."),
        ("a." * 5000 + "b=1", f"'{'a.' * 28}... is not key=value. Write for example batch.global=256."),
        ("optimizer.lr=", "optimizer.lr: has no value. Write optimizer.lr=null to unset it."),
        ("name= ", "name: has no value. Write name=null to unset it."),
        ("extends=a.yaml", "extends: cannot be given here. Write it in the recipe, or name the other recipe."),
        (
            "tracking.wandb.group=\udcff",
            r"tracking.wandb.group: '\udcff' has an invisible character, U+DCFF. Delete it.",
        ),
        ("lr=1", "lr: unknown key. Did you mean optimizer.lr?"),
        ("trian.epochs=null", "trian: unknown key. Did you mean train?"),
        ("batch.global.x=5", "batch.global: must be a whole number of at least 1, not a mapping."),
        (
            "optimizer.betas.0=5",
            "optimizer.betas: must be a list of 2, each a number from 0 to below 1, not a mapping.",
        ),
        (
            f"optimizer.betas.{'9' * 5000}=5",
            "optimizer.betas: must be a list of 2, each a number from 0 to below 1, not a mapping.",
        ),
        ("batch={micro: 0}", "batch.micro: must be auto or a whole number of at least 1, not 0."),
    ],
    ids=lambda value: value[:24].encode("unicode_escape").decode(),
)
def test_malformed_overrides(tmp_path: Path, override: str, message: str) -> None:
    assert refusal(tmp_path, RECIPE, override) == [f"command line: {message}"]


def test_all_malformed_overrides_are_reported(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, RECIPE, "a", "batch.micro=4", "b=[")) == 2


def test_marks_name_the_file_and_line_that_each_key_is_from(tmp_path: Path) -> None:
    text = "extends: sub/base.yaml\n\nbatch:\n  micro: 4\noptimizer: {name: adamw, momentum: null}\n"
    write(tmp_path, {"recipe.yaml": text, "sub/base.yaml": BASE, "sub/task.py": TASK})
    marks = read_source(tmp_path / "recipe.yaml", ["train.epochs=5", "tracking.wandb={tags: [x]}"]).marks
    short = {key: mark.replace(f"{tmp_path}{os.sep}", "") for key, mark in marks.items()}
    assert short == {
        "": "recipe.yaml",
        "extends": "recipe.yaml:1",
        "name": "sub/base.yaml:1",
        "task": "sub/base.yaml:2",
        "task.entry": "sub/base.yaml:2",
        "task.args": "sub/base.yaml:2",
        "task.args.hidden": "sub/base.yaml:2",
        "task.args.sizes": "sub/base.yaml:2",
        "task.args.sizes.0": "sub/base.yaml:2",
        "task.args.sizes.1": "sub/base.yaml:2",
        "task.args.sizes.2": "sub/base.yaml:2",
        "task.args.labels": "sub/base.yaml:2",
        "task.args.labels.a": "sub/base.yaml:2",
        "task.args.labels.b": "sub/base.yaml:2",
        "batch": "recipe.yaml:3",
        "batch.global": "sub/base.yaml:3",
        "batch.micro": "recipe.yaml:4",
        "train": "sub/base.yaml:4",
        "train.epochs": "command line",
        "train.max_grad_norm": "sub/base.yaml:4",
        "optimizer": "recipe.yaml:5",
        "optimizer.name": "recipe.yaml:5",
        "optimizer.momentum": "recipe.yaml:5",
        "tracking": "command line",
        "tracking.wandb": "command line",
        "tracking.wandb.tags": "command line",
        "tracking.wandb.tags.0": "command line",
    }


def test_a_replaced_value_takes_its_marks_along(tmp_path: Path) -> None:
    base = "task:\n  args:\n    sizes:\n      - 1\n      - 2\n"
    write(tmp_path, {"base.yaml": base, "recipe.yaml": "extends: base.yaml\ntask: {args: {sizes: [5]}}\n"})
    marks = read_source(tmp_path / "recipe.yaml").marks
    assert "task.args.sizes.1" not in marks
    assert marks["task.args.sizes.0"].endswith("recipe.yaml:2")


def test_mistakes_of_a_base_are_named_there(tmp_path: Path) -> None:
    base = BASE.replace("momentum: 0.9", "momentum: 9").replace("epochs: 2", "epochs: two")
    assert refusal(tmp_path, "extends: base.yaml\n", "batch.micro=0", base_yaml=base) == [
        "base.yaml:4: train.epochs: must be a whole number of at least 1, not 'two'.",
        "base.yaml:5: optimizer.momentum: must be a number from 0 to below 1, not 9.",
        "command line: batch.micro: must be auto or a whole number of at least 1, not 0.",
    ]
