"""Whatever a recipe holds, it is a recipe or a request that is refused in sentences."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher.errors import RequestError
from launcher.plan.planner import make_plan
from launcher.plan.topology import Machine, choose_topology
from launcher.recipe.dump import recipe_to_yaml
from launcher.recipe.keys import all_keys
from launcher.recipe.load import MAX_MISTAKES, load_recipe
from launcher.recipe.task_code import batchnorm_uses
from tests.recipe.folder import RECIPE, TASK, load, refusal, write

Check = Callable[..., None]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """A function that loads and plans a recipe, and lets nothing pass but a plan or sentences."""
    folder = tmp_path_factory.mktemp("fuzz")
    write(folder, {"task.py": TASK, "base.yaml": RECIPE, "train.py": "pass\n"})
    path = folder / "recipe.yaml"
    place = re.compile(re.escape(str(folder)) + r"/[a-z]+\.yaml(:[1-9][0-9]*)?|command line")

    def attempt(overrides: tuple[str, ...]) -> None:
        loaded = load_recipe(path, overrides)
        try:
            topology = choose_topology(loaded.recipe.launch, Machine(cpus=4, gpus=0))
            if topology.world_size < 4096:
                make_plan(loaded.recipe, topology, batchnorm_uses(loaded.recipe)).to_json()
        except RequestError as error:
            raise error.located(loaded.marks) from None
        assert recipe_to_yaml(loaded.recipe)

    def check(content: bytes, *overrides: str) -> None:
        path.write_bytes(content)
        try:
            attempt(overrides)
        except RequestError as error:
            assert error.mistakes
            for mistake in error.mistakes:
                sentence = str(mistake)
                assert place.fullmatch(mistake.where), sentence
                assert sentence.isprintable(), sentence
                assert sentence.endswith((".", "?")), sentence
                assert len(sentence) < 2000, sentence

    return check


@settings(deadline=None, max_examples=150)
@given(content=st.binary(max_size=60))
@example(content=b"")
@example(content=b"\xef\xbb\xbf")
def test_any_bytes(check: Check, content: bytes) -> None:
    check(content)


@settings(deadline=None, max_examples=150)
@given(text=st.text(st.sampled_from("ab:-[]{},?&*!|>'\"%@#\n \t0.1e"), max_size=30))
def test_anything_like_yaml(check: Check, text: str) -> None:
    check(text.encode())


WORDS = sorted(
    {part for key in all_keys() for part in key.split(".")} | {"extends", "", "global_", "0", "batch.global"}
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.sampled_from([0, 2**62, 2**63, -(2**63), 10**400, 1e308, -0.0, 0.5, 1e-320]),
    st.sampled_from(["task.py:Digits", "train.py", "base.yaml", "recipe.yaml", "..", "auto", "epoch", "cuda", "1e-4"]),
    st.text(max_size=4),
)
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None, max_examples=120)
@given(data=st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), NESTED, max_size=6))
@example(data={"batch.global": 8})
@example(data={"": {"": ""}})
@example(data={"0": [0], "optimizer": {"betas": {"0": 1}}})
@example(data={"script": {"path": "a\0b"}})
def test_any_nesting_of_known_words(check: Check, data: dict[str, Any]) -> None:
    check(json.dumps(data).encode())


@settings(deadline=None, max_examples=150)
@given(key=st.sampled_from(all_keys()), value=NESTED)
@example(key="launch.nodes", value=65536)
@example(key="optimizer.lr", value=10**400)
def test_any_value_of_any_key(check: Check, key: str, value: Any) -> None:
    for part in reversed(key.split(".")):
        value = {part: value}
    check(json.dumps({"extends": "base.yaml", **value}).encode())


@settings(deadline=None, max_examples=150)
@given(key=st.sampled_from(all_keys()) | st.text(max_size=6), text=NESTED.map(json.dumps) | st.text(max_size=12))
@example(key="optimizer.betas.\u00b2", text="1")
@example(key="task.args.x", text="\udcff")
@example(key="tracking.wandb.group", text="\udcff")
@example(key="batch", text="{1: 2}")
def test_any_override(check: Check, key: str, text: str) -> None:
    check(RECIPE.encode(), f"{key}={text}")


def test_all_that_can_be_known_is_said_at_once(tmp_path: Path) -> None:
    text = """name: a/b
task: {entry: task.py:Digit}
batch: {global: 8}
trian: {epochs: 1}
optimizer: {momentum: 0.9}
schedule: {final: 2}
"""
    assert refusal(tmp_path, text) == [
        "recipe.yaml: train: one of epochs, updates and samples is needed. Write for example train: {epochs: 20}.",
        "recipe.yaml:1: name: must be 1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first, "
        "not 'a/b'.",
        "recipe.yaml:2: task.entry: task.py has no class Digit. Did you mean Digits?",
        "recipe.yaml:3: batch: two of global, micro and accumulation are needed, and only global is given. "
        "Add batch.micro, the samples that fit into one forward and backward (auto finds them).",
        "recipe.yaml:4: trian: unknown key. Did you mean train?",
        "recipe.yaml:5: optimizer.momentum: adamw has no such setting. Use optimizer.betas, or optimizer.name=sgd.",
        "recipe.yaml:6: schedule.final: must be a number from 0 to 1, not 2.",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "script: {path: 5}\nbatch: {global: 8, micro: 2}\n",
            "recipe.yaml:1: script.path: must be text, not 5. Put quotes around it.",
        ),
        (
            "task: {entry: 5}\nbatch: {global: 8, micro: 2}\ntrain: {epochs: 1}\n",
            "recipe.yaml:1: task.entry: must be file.py:Class or package.module:Class, not 5. Put quotes around it.",
        ),
        (
            "task: {entry: task.py:Digits}\nbatch: {global: x, micro: 2}\ntrain: {epochs: 1}\n",
            "recipe.yaml:2: batch.global: must be a whole number of at least 1, not 'x'.",
        ),
    ],
    ids=["script", "task", "batch"],
)
def test_a_wrong_value_brings_no_mistakes_that_follow_from_it(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text) == [message]


def test_a_value_that_could_have_several_types_is_one_mistake(tmp_path: Path) -> None:
    assert refusal(tmp_path, RECIPE, "eval.every=often") == [
        "command line: eval.every: must be epoch, end or a whole number of at least 1, not 'often'."
    ]


def test_the_line_of_a_list_is_that_of_its_entry(tmp_path: Path) -> None:
    text = f"{RECIPE}optimizer:\n  betas:\n    - 0.9\n    - 9\n"
    assert refusal(tmp_path, text) == [
        "recipe.yaml:9: optimizer.betas: entry 2 must be a number from 0 to below 1, not 9."
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("launch.kubernetes.node_selector={gpu: true}", ".gpu: must be text, not true. Put quotes around it."),
        ("launch.kubernetes.node_selector={x.com/gpu: 1}", ".x.com/gpu: must be text, not 1. Put quotes around it."),
        ("launch.kubernetes.env={A: 1}", ".A: must be text, not 1. Put quotes around it."),
        ("launch.kubernetes.secrets={A: x}", ".A: must be a mapping with the keys name, key, not 'x'."),
        (
            "launch.kubernetes.secrets={A.B: {z: 1, name: x, key: y}}",
            ".A.B.z: unknown key. launch.kubernetes.secrets.A",
        ),
        (
            "launch.kubernetes.resources={x.com/a: null}",
            ".x.com/a: must be a whole number or text, not null. Give it a value, or delete the key.",
        ),
        ("multitask.losses={a.b: x}", ".a.b: must be a number of at least 0, not 'x'."),
        ("multitask.losses={a b: 1}", ": 'a b' cannot be a name here. It must be 1 to 64 letters, digits, dots"),
    ],
)
def test_the_wrong_entry_of_a_mapping_is_named(tmp_path: Path, override: str, said: str) -> None:
    write(tmp_path, {"task.py": TASK, "recipe.yaml": RECIPE})
    with pytest.raises(RequestError) as refused:
        load_recipe(tmp_path / "recipe.yaml", [override])
    assert str(refused.value).startswith(f"command line: {override.partition('=')[0]}{said}")


@pytest.mark.parametrize(("parent", "word"), [("optimizer", "lr"), ("task.args", "hidden"), ("tracking.wandb", "mode")])
def test_a_dotted_key_belongs_on_the_command_line(tmp_path: Path, parent: str, word: str) -> None:
    assert refusal(tmp_path, f"{RECIPE}{parent}.{word}: 5\n") == [
        f"recipe.yaml:6: {parent}.{word}: unknown key. In a file, write {word} under {parent}."
    ]


def test_the_alias_of_a_key_is_its_only_name(tmp_path: Path) -> None:
    assert refusal(tmp_path, RECIPE.replace("global", "global_")) == [
        "recipe.yaml:4: batch.global_: unknown key. Did you mean batch.global?"
    ]


def test_thousands_of_mistakes_are_not_all_shown(tmp_path: Path) -> None:
    began = time.process_time()
    sentences = refusal(tmp_path, RECIPE + "".join(f"key{number}: 1\n" for number in range(5000)))
    assert time.process_time() - began < 2
    assert sentences[0] == f"recipe.yaml: 5,000 mistakes; {MAX_MISTAKES} are shown. Correct these first."
    assert len(sentences) == MAX_MISTAKES + 1


def test_marks_come_with_the_recipe(tmp_path: Path) -> None:
    loaded = load(tmp_path, RECIPE, "batch.micro=4")
    assert loaded.path == tmp_path / "recipe.yaml"
    assert loaded.marks["batch.micro"] == "command line"
    assert loaded.marks["batch.global"] == f"{tmp_path}/recipe.yaml:4"
