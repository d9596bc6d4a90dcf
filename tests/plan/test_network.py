"""What a network costs an update, held against arithmetic by hand."""

from __future__ import annotations

import pytest

from launcher.plan.network import NetworkCost, bus_bandwidth
from launcher.plan.planner import make_plan
from launcher.plan.topology import Topology
from launcher.plan.traffic import traffic_of
from launcher.recipe.schema import Recipe


@pytest.mark.parametrize(("communication", "hidden", "small"), [(0.5, 13, 113), (0.04, 1, 10), (0.001, 1, 1)])
def test_k_at_which_the_network_hides(communication: float, hidden: int, small: int) -> None:
    cost = NetworkCost(micro_seconds=0.04, accumulation=4, once=communication)
    assert (cost.hidden_from, cost.small_from) == (hidden, small)
    assert communication <= hidden * 0.04
    assert hidden == 1 or communication > (hidden - 1) * 0.04
    shares = [communication / (communication + k * 0.04) for k in (small - 1, small)]
    assert shares[1] < 0.1
    assert small == 1 or shares[0] >= 0.1 - 1e-9


def test_the_share_of_an_update() -> None:
    cost = NetworkCost(micro_seconds=0.04, accumulation=4, once=0.48)
    assert cost.computing == 0.16
    assert cost.share == pytest.approx(0.75)


def test_no_k_hides_what_takes_longer_in_a_micro_step_than_that_computes() -> None:
    cost = NetworkCost(0.04, 4, once=0.1, each=0.04)
    assert (cost.balanced, cost.hidden_from, cost.small_from) == (None, None, None)
    assert cost.communication == pytest.approx(0.26)


def test_what_each_micro_step_sends_grows_with_k() -> None:
    """0.04 s of computing and 0.02 s of sending in each; 0.1 s of sending once: as long at K = 5."""
    cost = NetworkCost(0.04, 4, once=0.1, each=0.02)
    assert cost.balanced == pytest.approx(5)
    assert cost.hidden_from == 5
    assert cost.small_from is None  # it never is less than a third
    small = NetworkCost(0.09, 4, once=0.1, each=0.005).small_from
    assert small == 21
    assert NetworkCost(0.09, small, once=0.1, each=0.005).share < 0.1 <= NetworkCost(0.09, 20, 0.1, 0.005).share + 1e-9


@pytest.mark.parametrize(
    ("parallel", "once", "each"),
    [
        ({"engine": "ddp"}, 4.0, 0.0),
        ({"engine": "fsdp"}, 4.0, 2.0),
        ({"engine": "fsdp", "fsdp": {"defer_reduction": False}}, 0.0, 6.0),
        ({"engine": "deepspeed", "deepspeed": {"stage": 0}}, 4.0, 0.0),
        ({"engine": "deepspeed", "deepspeed": {"stage": 1}}, 6.0, 0.0),
        ({"engine": "deepspeed", "deepspeed": {"stage": 2}}, 2.0, 4.0),
        ({"engine": "deepspeed", "deepspeed": {"stage": 3}}, 0.0, 8.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("accumulation", [1, 4])
def test_what_an_engine_sends_once_and_in_each_micro_step(
    parallel: dict[str, object], once: float, each: float, accumulation: int
) -> None:
    """In bytes of an all-reduce for each parameter: a gather sends each byte once, and an all-reduce twice."""
    described = {
        "task": {"entry": "task.py:Mine"},
        "model": {"parameters": 1000},
        "batch": {"global": 16 * accumulation, "micro": 8},
        "train": {"updates": 5},
        "parallel": parallel,
    }
    plan = make_plan(Recipe.model_validate(described), Topology(nodes=1, nproc_per_node=2, device="cpu"))
    assert plan.batch.accumulation == accumulation
    traffic = traffic_of(plan)
    assert (traffic.once, traffic.each) == (1000 * once, 1000 * each)


def test_bandwidth_counts_what_a_rank_sends() -> None:
    assert bus_bandwidth(125_000_000, 1.0, 2) == 1e9
    assert bus_bandwidth(125_000_000, 1.0, 8) == 1.75e9
