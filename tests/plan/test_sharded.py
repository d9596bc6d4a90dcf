"""What the plan says of a model in parts, to be checked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.errors import RequestError
from launcher.plan.planner import Plan, make_plan
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe

COPY = 4000  # bytes of 1,000 parameters in fp32
STEPS = 4  # micro-steps of each rank


def planned(nodes: int = 1, ranks: int = 2, precision: str = "fp32", **fsdp: Any) -> Plan:
    recipe = {
        "task": {"entry": "package.module:Task"},
        "batch": {"global": nodes * ranks * STEPS, "micro": 1},
        "train": {"updates": 1, "precision": precision},
        "model": {"parameters": 1000},
        "parallel": {"engine": "fsdp", "fsdp": fsdp},
    }
    return make_plan(Recipe.model_validate(recipe), Topology(nodes=nodes, nproc_per_node=ranks, device="cpu"))


@pytest.mark.parametrize(
    ("fsdp", "reduced", "gathered"),
    [
        ({}, 1, STEPS),  # the model as a whole: gathered once for forward and backward
        ({"wrap": ("Block",)}, 1, 2 * STEPS),
        ({"wrap": ("Block",), "reshard_after_forward": False}, 1, STEPS),
        ({"wrap": ("Block",), "defer_reduction": False}, STEPS, 2 * STEPS),
    ],
)
def test_copies_that_cross_the_network(fsdp: dict[str, Any], reduced: int, gathered: int) -> None:
    reduction = planned(**fsdp).reduction
    assert reduction is not None
    assert reduction.bytes_per_update == reduced * COPY
    assert reduction.bytes_without_no_sync == STEPS * COPY
    assert reduction.gathered_bytes == gathered * COPY


def test_half_precision_is_gathered_in_half_and_reduced_whole() -> None:
    reduction = planned(precision="bf16").reduction
    assert reduction is not None
    assert (reduction.bytes_per_update, reduction.gathered_bytes) == (COPY, STEPS * COPY // 2)


def test_copies_on_each_machine_add_up_their_parts() -> None:
    plan = planned(nodes=2, ranks=4, replicas="nodes")
    assert plan.sharded_cost is not None and plan.reduction is not None
    assert (plan.sharded_cost.shards, plan.sharded_cost.copies) == (4, 2)
    assert plan.reduction.bytes_per_update == COPY + COPY // 4


def test_one_rank_moves_nothing() -> None:
    plan = planned(ranks=1)
    assert plan.sharded_cost is None and plan.reduction is not None
    assert (plan.reduction.bytes_per_update, plan.reduction.gathered_bytes) == (0, 0)


def test_machines_of_one_process_have_no_copies_in_parts() -> None:
    with pytest.raises(RequestError, match="each has one process"):
        planned(nodes=2, ranks=1, replicas="nodes")
    assert planned(nodes=1, ranks=1, replicas="nodes").sharded_cost is None
