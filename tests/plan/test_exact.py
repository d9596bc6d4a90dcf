"""Exact runs as they are planned: worlds, windows, the tree, and what may not be asked for."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest

from launcher.errors import RequestError
from launcher.launch.environ import launch_environment
from launcher.plan.changes import changes
from launcher.plan.exact import Node, TreeSum, copies_per_update, partial_sums
from launcher.plan.planner import Plan, make_plan
from launcher.plan.topology import Machine, Topology
from launcher.plan.windows import micro_steps, virtual_ranks_of, windows_of_run
from launcher.recipe.rules import broken_rules
from launcher.recipe.schema import Recipe
from launcher.rundir.layout import RunDirectory


def recipe(virtual_ranks: int | None = 8, **sections: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "task": {"entry": "package.module:Task"},
            "batch": sections.pop("batch", {"global": 64, "micro": 4}),
            "train": {"updates": 20, "determinism": "exact", "virtual_ranks": virtual_ranks},
            **sections,
        }
    )


def planned(world: int, **changed: Any) -> Plan:
    return make_plan(recipe(**changed), Topology(nodes=1, nproc_per_node=world, device="cpu"))


def added(leaves: int, blocks: list[range]) -> str:
    """How a tree over some leaves adds them when each block adds what it can first, in brackets."""
    whole: TreeSum[str] = TreeSum(leaves, lambda left, right: f"({left}+{right})")
    for block in blocks:
        part: TreeSum[str] = TreeSum(leaves, lambda left, right: f"({left}+{right})")
        for leaf in block:
            part.put(Node(0, leaf), str(leaf))
        for node, value in part.take():
            whole.put(node, value)
    ((_, root),) = whole.take()
    return root


@pytest.mark.parametrize("leaves", range(1, 18))
def test_the_order_of_additions_does_not_follow_from_the_blocks(leaves: int) -> None:
    of_worlds = {
        added(leaves, [virtual_ranks_of(rank, world, leaves) for rank in range(world)])
        for world in range(1, leaves + 1)
    }
    assert len(of_worlds) == 1


def test_the_tree_is_balanced() -> None:
    assert added(8, [range(8)]) == "(((0+1)+(2+3))+((4+5)+(6+7)))"
    assert added(5, [range(5)]) == "(((0+1)+(2+3))+4)"


def test_aligned_blocks_have_one_partial_sum() -> None:
    assert partial_sums(1, 4, 8) == [Node(1, 1)]
    assert partial_sums(1, 3, 8) == [Node(0, 3), Node(1, 2)]
    assert [copies_per_update(world, 8) for world in (1, 2, 3, 4, 8)] == [1, 1, 1.5, 1, 1]


@pytest.mark.parametrize("samples", [1, 7, 24, 61])
@pytest.mark.parametrize("virtual_ranks", [1, 4, 5, 8])
def test_virtual_ranks_take_the_same_micro_batches_on_any_ranks(samples: int, virtual_ranks: int) -> None:
    found = []
    for world in range(1, virtual_ranks + 1):
        (window,) = windows_of_run(
            data_samples=samples,
            global_batch=samples,
            micro=3,
            world_size=world,
            keep_tail=True,
            updates=1,
            virtual_ranks=virtual_ranks,
        )
        ranks = range(world)
        batches = [window.micro_batches(rank) for rank in ranks]
        assert [sum(window.virtual_steps(rank)) for rank in ranks] == [len(of_rank) for of_rank in batches]
        assert tuple(map(len, batches)) == micro_steps(samples, 3, world, virtual_ranks)
        found.append((list(chain(*batches)), list(chain(*(window.virtual_steps(rank) for rank in ranks)))))
    assert all(one == found[0] for one in found)
    assert sum(part.samples for part in found[0][0]) == samples


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_ranks_that_divide_the_virtual_ones_are_even(world: int) -> None:
    steps = planned(world, batch={"global": 24, "micro": 3}).batch.micro_steps
    assert set(steps) == {8 // world}
    assert max(micro_steps(22, 4, 2, 4)) - min(micro_steps(22, 4, 2, 4)) == 0


def test_more_ranks_than_virtual_ones_are_refused() -> None:
    planned(8)
    with pytest.raises(RequestError, match="goes on 1 to 8 ranks, not on 9"):
        planned(9)


def test_uneven_blocks_are_warned_of() -> None:
    (warning,) = (said for said in planned(3).warnings if "virtual ranks" in said)
    assert "each stands for 2 or 3 of 8 virtual ranks" in warning


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"virtual_ranks": None}, "exact needs train.virtual_ranks"),
        ({"batch": {"global": 64, "accumulation": 4}}, "exact needs batch.micro"),
        ({"batch": {"micro": 4, "accumulation": 4}}, "exact needs batch.global"),
        ({"parallel": {"sync_batchnorm": True}}, "exact goes without parallel.sync_batchnorm"),
        ({"train": {"updates": 1, "virtual_ranks": 2}}, "only exact runs have virtual ranks"),
    ],
)
def test_what_cannot_be_exact_is_refused(asked: dict[str, Any], said: str) -> None:
    mistakes = list(broken_rules(recipe(**asked)))
    assert [mistake for mistake in mistakes if mistake.wrong.startswith(said)] == mistakes != []


@pytest.mark.parametrize("world", [1, 2])
def test_threads_do_not_follow_from_the_ranks(tmp_path: Any, world: int) -> None:
    for inherited in ({}, {"OMP_NUM_THREADS": "6"}):
        variables = launch_environment(planned(world), RunDirectory(tmp_path), Machine(gpus=0, cpus=8), inherited)
        assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "1"


def test_a_run_cannot_go_on_with_another_order() -> None:
    begun = planned(2)
    assert not list(changes(begun, planned(4)))
    for changed in ({"virtual_ranks": 4}, {"batch": {"global": 64, "micro": 8}}, {"parallel": {"bucket_mb": 1.0}}):
        assert list(changes(begun, planned(2, **changed)))


def test_bytes_of_the_plan() -> None:
    model = {"parameters": 1000}
    found = [planned(world, model=model).reduction for world in (1, 2, 3)]
    assert [reduction.bytes_per_update for reduction in found if reduction] == [0, 4000, 6000]


def test_cost_of_the_plan() -> None:
    """With V = 8 a rank has log2(8/W) + 1 sums, or its sum and the whole one."""
    found = [planned(world, model={"parameters": 1000}).exact_cost for world in (1, 2, 3, 4, 8)]
    costs = [cost for cost in found if cost]
    assert [cost.gradient_copies for cost in costs] == [4, 3, 3, 2, 2]
    assert [cost.extra_memory_bytes for cost in costs] == [12000, 8000, 8000, 4000, 4000]
    assert [cost.ring_bytes_per_update for cost in costs] == [0, 4000, 4000, 4000, 4000]
    assert [cost.bytes_per_update for cost in costs] == [0, 4000, 6000, 4000, 4000]
    assert [cost.overlapped for cost in costs] == [False, False, False, False, True]


def test_several_backwards_do_not_overlap() -> None:
    losses = {"losses": {"one": 1.0, "other": 1.0}, "backward": "sequential"}
    cost = planned(8, multitask=losses).exact_cost
    assert cost
    assert (cost.can_overlap, cost.overlapped, cost.bytes_per_update) == (True, False, None)
