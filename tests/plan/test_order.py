from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.plan.order import sample_order


@pytest.mark.parametrize("length", [*range(1, 130), 1000, 1437, 4096, 4097, 65_537])
def test_every_sample_once_per_epoch(length: int) -> None:
    assert sorted(sample_order(np.arange(length), length, seed=7, epoch=3)) == list(range(length))


def test_order_is_a_function_of_seed_epoch_and_length_alone() -> None:
    first = sample_order(np.arange(1437), 1437, seed=0, epoch=0)
    assert (first == sample_order(np.arange(1437), 1437, seed=0, epoch=0)).all()
    assert (first != sample_order(np.arange(1437), 1437, seed=1, epoch=0)).any()
    assert (first != sample_order(np.arange(1437), 1437, seed=0, epoch=1)).any()


def test_order_is_fixed_for_ever() -> None:
    """Resuming a run with a later version must go on with the same samples: another order needs another name."""
    assert sample_order(np.arange(8), 1437, seed=0, epoch=0).tolist() == [214, 1318, 818, 722, 557, 1287, 511, 75]


@given(
    length=st.integers(1, 2**62), position=st.integers(0, 2**62), seed=st.integers(0, 2**63), epoch=st.integers(0, 99)
)
@settings(max_examples=200, deadline=None)
def test_any_position_of_any_data_set_is_reached_at_once(length: int, position: int, seed: int, epoch: int) -> None:
    positions = np.array([position % length, (position + 1) % length])
    samples = sample_order(positions, length, seed, epoch)
    assert ((samples >= 0) & (samples < length)).all()
    assert length == 1 or samples[0] != samples[1]


def test_a_trillion_samples_cost_no_table() -> None:
    length = 10**12 + 39
    positions = np.arange(length - 100_000, length)
    samples = sample_order(positions, length, seed=0, epoch=5)
    assert len(np.unique(samples)) == len(positions)


def test_all_orders_of_few_samples_are_about_equally_frequent() -> None:
    seen = Counter(tuple(sample_order(np.arange(4), 4, seed, 0).tolist()) for seed in range(4800))
    assert len(seen) == 24
    assert min(seen.values()) > 140  # 200 expected, with a standard deviation of 14
    assert max(seen.values()) < 260


def test_order_looks_random() -> None:
    length = 100_000
    order = sample_order(np.arange(length), length, seed=1, epoch=0)
    other = sample_order(np.arange(length), length, seed=1, epoch=1)
    assert abs(np.corrcoef(order, np.arange(length))[0, 1]) < 0.02
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.02
    assert abs(np.corrcoef(order, other)[0, 1]) < 0.02
