"""A recipe that was written out loads to the same recipe."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.recipe.dump import recipe_to_yaml
from launcher.recipe.load import load_recipe
from launcher.recipe.schema import Recipe
from tests.recipe.folder import RECIPE, load


def again(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe, written and read from another folder."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    path = elsewhere / "resolved.yaml"
    path.write_text(recipe_to_yaml(recipe), encoding="utf-8")
    return load_recipe(path).recipe


@pytest.mark.parametrize("text", ["1e-4", "yes", "0123", "12:30", "1_000", ".nan", "null", "~", "5", "größer", "a: b"])
def test_text_stays_text(tmp_path: Path, text: str) -> None:
    recipe = load(tmp_path, f"{RECIPE}tracking: {{wandb: {{group: '{text}', tags: ['{text}']}}}}\n").recipe
    assert recipe.tracking.wandb.group == text
    assert again(recipe, tmp_path) == recipe


def test_what_people_read_is_readable(tmp_path: Path) -> None:
    assert "größer" in recipe_to_yaml(load(tmp_path, RECIPE, "task.args.x=größer").recipe)


def test_an_inherited_and_overridden_recipe_stands_alone(tmp_path: Path) -> None:
    text = "extends: base.yaml\noptimizer: {lr: 1e-5}\ntrain: {max_grad_norm: null}\n"
    recipe = load(tmp_path, text, "batch.accumulation=4", "batch.micro=null", base_yaml=RECIPE).recipe
    assert again(recipe, tmp_path) == recipe


def test_a_batch_schedule_survives(tmp_path: Path) -> None:
    schedule = "batch.schedule=[{global: 2, updates: 3}, {global: 4, samples: 9}]"
    recipe = load(tmp_path, RECIPE, schedule).recipe
    assert [stage.global_ for stage in recipe.batch.schedule] == [2, 4]
    assert again(recipe, tmp_path) == recipe


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
    | st.sampled_from(
        ["1e5", "-1E+5", "+.5e3", "5.", "True", "=", "<<", "\u200d", "\u00a0", "\x85", "x\u2028y", "\x01"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=6).filter(
                lambda key: key != "<<"
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=80)
@given(VALUES)
def test_any_argument_of_a_task_survives(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = load(Path(folder)).recipe
        assert recipe.task is not None
        with_value = recipe.model_copy(update={"task": recipe.task.model_copy(update={"args": {"x": value}})})
        assert again(with_value, Path(folder)) == with_value
