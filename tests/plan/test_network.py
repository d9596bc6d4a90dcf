"""What a network costs an update, held against arithmetic by hand."""

from __future__ import annotations

import pytest

from launcher.plan.network import NetworkCost, bus_bandwidth


@pytest.mark.parametrize(("communication", "hidden", "small"), [(0.5, 13, 113), (0.04, 1, 10), (0.001, 1, 1)])
def test_k_at_which_the_network_hides(communication: float, hidden: int, small: int) -> None:
    cost = NetworkCost(micro_seconds=0.04, accumulation=4, communication=communication)
    assert (cost.hidden_from, cost.small_from) == (hidden, small)
    assert communication <= hidden * 0.04
    assert hidden == 1 or communication > (hidden - 1) * 0.04
    shares = [communication / (communication + k * 0.04) for k in (small - 1, small)]
    assert shares[1] < 0.1
    assert small == 1 or shares[0] >= 0.1 - 1e-9


def test_the_share_of_an_update() -> None:
    cost = NetworkCost(micro_seconds=0.04, accumulation=4, communication=0.48)
    assert cost.computing == 0.16
    assert cost.share == pytest.approx(0.75)


def test_no_k_hides_what_every_micro_step_reduces() -> None:
    cost = NetworkCost(0.04, 4, 0.5, every_step=True)
    assert (cost.balanced, cost.hidden_from, cost.small_from) == (None, None, None)


def test_bandwidth_counts_what_a_rank_sends() -> None:
    assert bus_bandwidth(125_000_000, 1.0, 2) == 1e9
    assert bus_bandwidth(125_000_000, 1.0, 8) == 1.75e9
