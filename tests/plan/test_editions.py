from __future__ import annotations

from collections.abc import Collection

import pytest

from launcher.plan.editions import compare_editions
from launcher.recipe.schema import MultitaskSection

THREE = MultitaskSection(losses={"a": 1.0, "b": 0.5, "c": 2.0}, backward="sequential")
OWN, TRUNK = {"loss"}, {"trunk", "heads"}


def costs(written: Collection[str] | None) -> list[tuple[object, ...]]:
    return [
        (row.backward, row.layout, row.trunk_graphs, row.head_graphs, row.trunk_forwards, row.trunk_backwards)
        for row in compare_editions(THREE, 2, written)
    ]


OWN_JOINT = ("joint", "own forwards", 3, 3, 3, 3)
OWN_SEQUENTIAL = ("sequential", "own forwards", 1, 1, 3, 3)
TRUNK_JOINT = ("joint", "trunk", 1, 3, 1, 1)
TRUNK_SEQUENTIAL = ("sequential", "trunk", 1, 1, 1, 3)
TRUNK_SHARED = ("shared", "trunk", 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("written", "rows"),
    [
        (OWN, [OWN_JOINT, OWN_SEQUENTIAL]),
        (TRUNK, [TRUNK_JOINT, TRUNK_SEQUENTIAL, TRUNK_SHARED]),
        (OWN | TRUNK, [TRUNK_JOINT, OWN_SEQUENTIAL, TRUNK_SHARED]),
        (None, [OWN_JOINT, TRUNK_JOINT, OWN_SEQUENTIAL, TRUNK_SEQUENTIAL, TRUNK_SHARED]),
    ],
)
def test_what_is_alive_at_once_and_how_often_the_trunk_is_passed(
    written: Collection[str] | None, rows: list[tuple[object, ...]]
) -> None:
    assert costs(written) == rows


@pytest.mark.parametrize(("world", "reductions"), [(1, ["none"] * 3), (2, ["overlapped", "after", "after"])])
def test_only_joint_reduces_while_it_goes_backward(world: int, reductions: list[str]) -> None:
    rows = compare_editions(THREE, world, TRUNK)
    assert [row.reduction for row in rows] == reductions
    assert [row.chosen for row in rows] == [False, True, False]


def test_one_loss_has_nothing_to_choose() -> None:
    assert compare_editions(MultitaskSection(), 2, OWN) == ()
