"""A run that is forked to windows of other sizes goes on with the next sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from launcher.errors import RequestError
from launcher.plan.planner import Plan, make_plan, with_past
from launcher.plan.topology import Topology
from launcher.plan.windows import Window
from launcher.recipe.schema import Recipe

CPU = Topology(nodes=1, nproc_per_node=2, device="cpu")


def plan_of(batch: Mapping[str, Any], **sections: Any) -> Plan:
    body = {"batch": batch, "train": {"epochs": 3}, "data": {"samples": 100}, **sections}
    return make_plan(Recipe.model_validate(body), CPU)


def taken(windows: list[Window]) -> list[tuple[int, int]]:
    """The (epoch, position) of every sample, in the order of the windows."""
    return [(window.epoch, window.first + place) for window in windows for place in range(window.samples)]


def forked(begun: Plan, now: Plan, update: int) -> list[Window]:
    """The windows of a run that was forked after so many updates."""
    fork = with_past(now, begun.made(update))
    assert list(fork.windows())[:update] == list(begun.windows())[:update]
    assert list(fork.windows(update)) == list(fork.windows())[update:]
    return list(fork.windows())


@pytest.mark.parametrize("update", [1, 4, 5, 7, 13])
@pytest.mark.parametrize(
    "batch",
    [
        {"global": 30, "micro": 4},
        {"global": 7, "micro": 4},
        {"global": 40, "micro": 4, "schedule": [{"global": 8, "updates": 6}]},
        {"global": 40, "micro": 4, "schedule": [{"global": 8, "samples": 60}]},
    ],
)
def test_each_sample_of_each_epoch_is_taken_once(batch: dict[str, Any], update: int) -> None:
    begun = plan_of({"global": 22, "micro": 4})
    windows = forked(begun, plan_of(batch), update)
    assert taken(windows) == [(epoch, place) for epoch in range(3) for place in range(100)]
    assert [window.update for window in windows] == list(range(len(windows)))
    assert windows[-1].samples_seen == 300
    seen = 0
    for window in windows:
        seen += window.samples
        assert window.samples_seen == seen


def test_a_schedule_goes_on_where_its_updates_are() -> None:
    """Six updates of 8 in the recipe, of which four have passed when the fork begins."""
    now = plan_of({"global": 40, "micro": 4, "schedule": [{"global": 8, "updates": 6}]})
    fork = with_past(now, plan_of({"global": 22, "micro": 4}).made(4))
    assert [(stage.global_, stage.first_update, stage.updates) for stage in fork.stages[:2]] == [(22, 0, 4), (8, 4, 2)]
    assert fork.stages[2].global_ == 40
    assert [stage.global_ for stage in fork.ahead] == [8, 40]


def test_a_tail_that_is_dropped_from_now_on_was_taken_before() -> None:
    begun, now = plan_of({"global": 30, "micro": 4}), plan_of({"global": 30, "micro": 4, "tail": "drop"})
    windows = forked(begun, now, 5)
    assert [window.samples for window in windows] == [30, 30, 30, 10, 30, 30, 30, 30, 30, 30]
    assert windows[5].first == 30


def test_a_fork_of_a_fork_keeps_both_pasts() -> None:
    begun, second, third = (plan_of({"global": size, "micro": 4}) for size in (22, 30, 7))
    fork = with_past(second, begun.made(3))
    again = with_past(third, fork.made(6))
    assert [(stage.global_batch, stage.updates) for stage in again.past] == [(22, 3), (30, 3)]
    assert taken(list(again.windows())) == [(epoch, place) for epoch in range(3) for place in range(100)]
    back = with_past(third, fork.made(2))
    assert [(stage.global_batch, stage.updates) for stage in back.past] == [(22, 2)]


def test_the_rate_follows_the_batches_that_were() -> None:
    scaled: dict[str, Any] = {"lr_scaling": {"rule": "linear", "reference_batch": 22}, "schedule": {"name": "constant"}}
    begun, now = (plan_of({"global": size, "micro": 4}, **scaled) for size in (22, 44))
    fork = with_past(now, begun.made(3))
    assert [fork.learning_rate.at(update) / begun.learning_rate.at(0) for update in (0, 2, 3, 4)] == [1, 1, 2, 2]


def test_what_equal_steps_need_is_asked_of_the_windows_to_come_alone() -> None:
    """A window of 22 in micro-batches of 4 gives two ranks 3 each, one of 20 gives them 3 and 2."""
    sync = {"parallel": {"sync_batchnorm": True}}
    uneven = plan_of({"global": 20, "micro": 4, "tail": "drop"})
    even = plan_of({"global": 24, "micro": 4, "tail": "drop"}, **sync)
    assert with_past(even, uneven.made(3)).past[0].global_batch == 20
    with pytest.raises(RequestError, match=r"a window of 20 gives them unequal ones"):
        plan_of({"global": 20, "micro": 4, "tail": "drop"}, **sync)


def test_a_plan_keeps_its_past_as_json() -> None:
    fork = with_past(plan_of({"global": 7, "micro": 4}), plan_of({"global": 22, "micro": 4}).made(3))
    assert Plan.model_validate_json(fork.to_json()) == fork
