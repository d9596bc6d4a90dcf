from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.kubernetes_jobs import JOBS as KUBERNETES_JOBS
from tests.processes import ROOT
from tests.recipes.golden import (
    ALL,
    ARRAY,
    BY_HAND,
    GOLDEN,
    JOBS,
    RECIPES,
    SKY_JOBS,
    SWEEP,
    by_hand_text,
    golden_file,
    launch_text,
    sweep_text,
)


@pytest.mark.parametrize("recipe", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_launch_of_every_shipped_recipe(recipe: Path) -> None:
    """If it changed on purpose: python -m tests.recipes.golden, and read the difference before you commit it."""
    assert launch_text(recipe) == golden_file(recipe).read_text()


@pytest.mark.parametrize("name", BY_HAND)
def test_launch_of_a_machine_that_is_started_by_hand(name: str) -> None:
    assert by_hand_text(name) == (GOLDEN / name).read_text()


def test_commands_of_a_sweep() -> None:
    assert sweep_text() == (GOLDEN / SWEEP).read_text()


def test_no_golden_file_is_left_over() -> None:
    jobs = (*JOBS, *BY_HAND, SWEEP, ARRAY, *SKY_JOBS, *KUBERNETES_JOBS)
    assert {*map(golden_file, ALL), *(GOLDEN / name for name in jobs)} == set(GOLDEN.iterdir())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_header_is_the_command_that_runs_it(recipe: Path) -> None:
    assert f"launcher run {recipe.relative_to(ROOT)}" in recipe.read_text()
