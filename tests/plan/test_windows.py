from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.plan.windows import Window, micro_steps, windows_of_run


def run_windows(data: int, batch: int, micro: int, world: int, keep: bool = True, updates: int = 7) -> list[Window]:
    return list(
        windows_of_run(
            data_samples=data, global_batch=batch, micro=micro, world_size=world, keep_tail=keep, updates=updates
        )
    )


@given(
    data=st.integers(1, 300),
    batch=st.integers(1, 90),
    micro=st.integers(1, 40),
    world=st.integers(1, 12),
)
@settings(max_examples=300, deadline=None)
def test_each_position_is_taken_once_and_as_evenly_as_possible(data: int, batch: int, micro: int, world: int) -> None:
    updates = -(-data // batch)
    positions: list[int] = []
    for window in run_windows(data, batch, micro, world, updates=updates):
        shares = [window.micro_batches(rank) for rank in range(world)]
        steps = tuple(len(share) for share in shares)
        assert steps == micro_steps(window.samples, micro, world)
        assert max(steps) - min(steps) <= 1
        taken = [part for share in shares for part in share]
        assert all(part.samples == micro for part in taken[:-1])
        assert 1 <= taken[-1].samples <= micro
        positions += [position for part in taken for position in range(part.first, part.first + part.samples)]
    assert positions == list(range(data))


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 8, 64])
def test_windows_do_not_know_the_world(world: int) -> None:
    alone = run_windows(1437, 256, 32, 1)
    together = run_windows(1437, 256, 32, world)
    spans = [(w.update, w.epoch, w.first, w.samples, w.samples_seen) for w in alone]
    assert [(w.update, w.epoch, w.first, w.samples, w.samples_seen) for w in together] == spans


def test_tail_is_kept_with_the_samples_that_it_has() -> None:
    windows = run_windows(100, 40, 8, 2, updates=4)
    assert [window.samples for window in windows] == [40, 40, 20, 40]
    assert [window.epoch for window in windows] == [0, 0, 0, 1]
    assert [window.samples_seen for window in windows] == [40, 80, 100, 140]


def test_tail_is_dropped() -> None:
    windows = run_windows(100, 40, 8, 2, keep=False, updates=3)
    assert [window.samples for window in windows] == [40, 40, 40]
    assert [window.epoch for window in windows] == [0, 0, 1]
    assert [window.samples_seen for window in windows] == [40, 80, 120]


def test_rank_with_nothing_has_no_micro_batch() -> None:
    (window,) = run_windows(3, 3, 2, 4, updates=1)
    assert [len(window.micro_batches(rank)) for rank in range(4)] == [1, 1, 0, 0]
