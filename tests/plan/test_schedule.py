"""Batch schedules: what the plan works out at once, against a run that is walked through window by window."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise, takewhile
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from launcher.errors import RequestError
from launcher.plan.planner import Plan, make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.plan.windows import Window
from launcher.recipe.schema import Recipe

StageKeys = dict[str, int]


class Case(NamedTuple):
    """A run over so many samples, whose windows grow (or shrink) by the stages."""

    data: int
    final: int
    stages: list[StageKeys]
    tail: str

    def plan(self, train: dict[str, int], **sections: Any) -> Plan:
        batch = {"global": self.final, "micro": 4, "tail": self.tail, "schedule": self.stages}
        return plan_for(batch=batch, train=train, data={"samples": self.data}, **sections)


def plan_for(world: int = 2, **sections: Any) -> Plan:
    recipe = Recipe.model_validate({"task": {"entry": "package.module:Task"}, "train": {"epochs": 3}, **sections})
    return make_plan(recipe, Topology(nodes=1, nproc_per_node=world, device="cpu"))


class Taken(NamedTuple):
    """What a window takes: samples of an epoch, from a position on."""

    epoch: int
    first: int
    samples: int


def walked(case: Case) -> Iterator[Taken]:
    """The windows as the rules say them, one at a time and without end."""
    epoch = first = 0
    for stage in [*case.stages, {"global": case.final}]:
        size, made, taken = stage["global"], 0, 0
        while made != stage.get("updates") and taken < stage.get("samples", taken + 1):
            if case.data - first < (1 if case.tail == "keep" else size):
                epoch, first = epoch + 1, 0
            samples = min(size, case.data - first)
            yield Taken(epoch, first, samples)
            first, made, taken = first + samples, made + 1, taken + samples


def of_window(window: Window) -> Taken:
    return Taken(window.epoch, window.first, window.samples)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    data = draw(st.integers(1, 60))
    tail = draw(st.sampled_from(["keep", "drop"]))
    sizes = st.integers(1, data if tail == "drop" else data + 10)
    length = st.one_of(
        st.fixed_dictionaries({"updates": st.integers(1, 12)}), st.fixed_dictionaries({"samples": st.integers(1, 150)})
    )
    stages = draw(st.lists(st.builds(lambda size, length: {"global": size, **length}, sizes, length), max_size=4))
    return Case(data, draw(sizes), stages, tail)


@given(cases(), st.integers(1, 60))
@settings(max_examples=300, deadline=None)
def test_windows_follow_the_stages(case: Case, updates: int) -> None:
    windows = list(case.plan({"updates": updates}).windows())
    expected = list(islice(walked(case), updates + 1))
    assert [of_window(window) for window in windows] == expected[:-1]
    assert [window.update for window in windows] == list(range(updates))
    assert [window.ends_epoch for window in windows] == [b.epoch > a.epoch for a, b in pairwise(expected)]
    seen = 0
    for window in windows:
        seen += window.samples
        assert window.samples_seen == seen


@given(cases(), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_epochs_take_as_many_updates_as_when_walked(case: Case, epochs: int) -> None:
    length = case.plan({"epochs": epochs}).length
    assert length.updates == sum(1 for _ in takewhile(lambda taken: taken.epoch < epochs, walked(case)))


@given(cases(), st.integers(1, 400))
@settings(max_examples=200, deadline=None)
def test_samples_take_as_many_updates_as_when_walked(case: Case, samples: int) -> None:
    seen = updates = 0
    for taken in walked(case):
        seen, updates = seen + taken.samples, updates + 1
        if seen >= samples:
            break
    assert case.plan({"samples": samples}).length.updates == updates


@given(cases(), st.integers(1, 4), st.sampled_from([1, 2, 3, 7]))
@settings(max_examples=200, deadline=None)
def test_each_epoch_takes_every_sample_once_and_in_order(case: Case, epochs: int, world: int) -> None:
    kept = case._replace(tail="keep")
    taken: dict[int, list[int]] = {epoch: [] for epoch in range(epochs)}
    batch = {"global": kept.final, "micro": 4, "schedule": kept.stages}
    for window in plan_for(world, batch=batch, train={"epochs": epochs}, data={"samples": kept.data}).windows():
        parts = [part for rank in range(world) for part in window.micro_batches(rank)]
        taken[window.epoch] += [at for part in parts for at in range(part.first, part.first + part.samples)]
    assert taken == {epoch: list(range(kept.data)) for epoch in range(epochs)}


@given(cases(), st.integers(0, 60), st.integers(1, 60))
@settings(max_examples=300, deadline=None)
def test_a_run_may_start_at_any_update(case: Case, first_update: int, updates: int) -> None:
    plan = case.plan({"updates": updates})
    assert list(plan.windows(first_update)) == list(plan.windows())[first_update:]


def test_an_update_far_away_is_reached_at_once() -> None:
    far = Case(10**12 + 39, 4096, [{"global": 7, "updates": 10**14}, {"global": 64, "samples": 10**16}], "keep")
    window = next(far.plan({"updates": 10**15}).windows(10**15 - 1))
    assert (window.update, window.samples) == (10**15 - 1, 4096)


def test_an_example_to_check_by_hand() -> None:
    case = Case(100, 40, [{"global": 10, "updates": 3}, {"global": 20, "samples": 50}], "keep")
    plan = case.plan({"epochs": 2})
    assert [window.samples for window in plan.windows()] == [10, 10, 10, 20, 20, 20, 10, 40, 40, 20]
    assert [window.ends_epoch for window in plan.windows()] == [False] * 6 + [True] + [False] * 2 + [True]
    assert (plan.length.updates, plan.length.updates_per_epoch, plan.length.tail_samples) == (10, 3, 20)
    assert [(stage.global_, stage.first_update, stage.updates) for stage in plan.stages] == [
        (10, 0, 3),
        (20, 3, 3),
        (40, 6, 4),
    ]
    assert [stage.micro_steps for stage in plan.stages] == [(2, 1), (3, 2), (5, 5)]


def test_a_larger_window_drops_what_a_smaller_one_would_have_taken() -> None:
    grows = Case(100, 40, [{"global": 20, "updates": 4}], "drop").plan({"epochs": 2})
    assert [of_window(window) for window in grows.windows()] == [
        (0, 0, 20), (0, 20, 20), (0, 40, 20), (0, 60, 20), (1, 0, 40), (1, 40, 40)
    ]  # fmt: skip  # a line is an epoch's worth
    assert [window.ends_epoch for window in grows.windows()] == [False, False, False, True, False, True]


def test_a_smaller_window_takes_what_a_larger_one_would_have_dropped() -> None:
    shrinks = Case(100, 20, [{"global": 40, "updates": 2}], "drop").plan({"epochs": 1})
    assert [of_window(window) for window in shrinks.windows()] == [(0, 0, 40), (0, 40, 40), (0, 80, 20)]


def test_without_a_schedule_there_is_one_stage() -> None:
    for batch in ({"global": 40, "micro": 4}, {"global": 40, "micro": 4, "schedule": []}):
        plan = plan_for(batch=batch, data={"samples": 100})
        (stage,) = plan.stages
        assert (stage.global_, stage.first_update, stage.updates, stage.learning_rate_scale) == (40, 0, 9, 1.0)
        assert stage.micro_steps == plan.batch.micro_steps
        assert plan.learning_rate.stages == ()


def test_stages_of_data_that_is_not_known() -> None:
    batch = {
        "global": 40,
        "micro": 4,
        "schedule": [{"global": 10, "updates": 3}, {"global": 20, "samples": 50}],
    }
    plan = plan_for(batch=batch)
    assert [(stage.first_update, stage.updates) for stage in plan.stages] == [(0, 3), (3, 3), (6, None)]
    assert plan.length.updates is None
    known = with_facts(plan, samples=15, parameters=1)  # the second stage would have 5 15 15 15
    assert [window.samples for window in known.windows()] == [10, 5, 10, 5, 15]
    assert [(stage.first_update, stage.updates) for stage in known.stages] == [(0, 3), (3, 2), (7, 0)]
    counted = plan_for(batch=batch, train={"updates": 8})
    assert [stage.updates for stage in counted.stages] == [3, 3, 2]


@given(cases(), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_stages_share_out_the_updates_of_the_run(case: Case, updates: int) -> None:
    plan = case.plan({"updates": updates})
    assert sum(stage.updates or 0 for stage in plan.stages) == updates
    assert Plan.model_validate_json(plan.to_json()) == plan
    for window in plan.windows():
        assert window.samples <= plan.global_batch_at(window.update)
        whole = case.data - window.first >= plan.global_batch_at(window.update)
        assert (window.samples == plan.global_batch_at(window.update)) == whole


RAMP = Case(1000, 40, [{"global": 10, "updates": 3}, {"global": 20, "updates": 2}], "keep")


@pytest.mark.parametrize(
    ("rule", "scales"), [("linear", [0.5, 1.0, 2.0]), ("sqrt", [0.5**0.5, 1.0, 2**0.5]), ("none", [1.0, 1.0, 1.0])]
)
def test_learning_rate_follows_the_stage_when_asked(rule: str, scales: list[float]) -> None:
    plan = RAMP.plan({"updates": 8}, lr_scaling={"rule": rule, "reference_batch": 20}, optimizer={"lr": 0.1})
    assert [stage.learning_rate_scale for stage in plan.stages] == pytest.approx(scales)
    of_updates = [scales[0]] * 3 + [scales[1]] * 2 + [scales[2]] * 3
    assert [plan.learning_rate.at(update) for update in range(8)] == pytest.approx([0.1 * s for s in of_updates])
    assert plan.learning_rate.peak == pytest.approx(0.1 * scales[-1])


def test_schedule_of_the_rate_and_of_the_batch_go_together() -> None:
    shape = {"name": "cosine", "warmup": 4, "final": 0.1}
    scaling = {"rule": "linear", "reference_batch": 40}
    both = RAMP.plan({"updates": 20}, schedule=shape, lr_scaling=scaling).learning_rate
    alone = RAMP.plan({"updates": 20}, schedule=shape).learning_rate
    shares = [0.25] * 3 + [0.5] * 2 + [1.0] * 15
    assert [both.factor(u) for u in range(20)] == pytest.approx([alone.factor(u) * shares[u] for u in range(20)])


def test_micro_stays_and_windows_grow() -> None:
    plan = RAMP.plan({"updates": 8})
    assert plan.batch.micro == 4
    for window in plan.windows():
        sizes = {part.samples for rank in range(2) for part in window.micro_batches(rank)[:-1]}
        assert sizes <= {4}


def test_a_stage_that_no_epoch_fills_is_refused_where_tails_are_dropped() -> None:
    case = Case(30, 20, [{"global": 10, "updates": 1}, {"global": 31, "updates": 1}], "drop")
    with pytest.raises(RequestError, match=r"^batch.schedule.1.global: .* has 30 samples, fewer than 31\."):
        case.plan({"epochs": 1})


@given(cases(), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_the_same_windows_at_every_number_of_ranks(case: Case, world: int) -> None:
    assume(case.stages)
    batch = {"global": case.final, "micro": 4, "tail": case.tail, "schedule": case.stages}
    here, there = (plan_for(ranks, batch=batch, data={"samples": case.data}) for ranks in (1, world))
    assert [of_window(window) for window in here.windows()] == [of_window(window) for window in there.windows()]


@pytest.mark.parametrize(
    ("world", "stages", "tail", "expected"),
    [
        (
            4,
            [{"global": 8, "updates": 5}],
            "keep",
            "batch.schedule: 2 of 4 ranks have no samples in the stage of global 8, where 50.0% of all time is spent "
            "waiting; 16 divides evenly.",
        ),
        (
            2,
            [{"global": 20, "updates": 5}, {"global": 28, "updates": 5}],
            "keep",
            "batch.schedule: ranks have 2 or 3 micro-steps in the stage of global 20, where 16.7% of all time is spent "
            "waiting (uneven stages in all: 2); 16 or 24 divides evenly.",
        ),
        (
            1,
            [{"global": 20, "updates": 12}],
            "keep",
            "batch.schedule takes 12 updates and the run has 12: batch.global 32 is never reached.",
        ),
        (
            1,
            [{"global": 20, "updates": 2}],
            "drop",
            "batch.tail=drop leaves out, of the 90 samples of an epoch, 10 with windows of 20, 26 with windows of 32; "
            "keep trains on all of them.",
        ),
    ],
)
def test_warnings_look_at_the_stages(world: int, stages: list[StageKeys], tail: str, expected: str) -> None:
    batch = {"global": 32, "micro": 4, "schedule": stages, "tail": tail}
    plan = plan_for(world, batch=batch, train={"updates": 12}, data={"samples": 90})
    assert plan.warnings == (expected,)


def test_batchnorm_is_warned_of_a_single_sample_in_a_stage() -> None:
    recipe = Recipe.model_validate(
        {
            "task": {"entry": "package.module:Task"},
            "batch": {"global": 32, "micro": 4, "schedule": [{"global": 9, "updates": 2}]},
            "train": {"updates": 4},
        }
    )
    plan = make_plan(recipe, Topology(nodes=1, nproc_per_node=1, device="cpu"), ("task.py:3 BatchNorm2d",))
    assert any("the last micro-batch of a window has 1 sample" in warning for warning in plan.warnings)


def test_the_walk_goes_as_the_rules_say() -> None:
    """What everything here is held to, on an example to check by hand."""
    case = Case(100, 40, [{"global": 10, "updates": 3}, {"global": 20, "samples": 50}], "drop")
    assert list(islice(walked(case), 3, 9)) == [
        (0, 30, 20),
        (0, 50, 20),
        (0, 70, 20),
        (1, 0, 40),
        (1, 40, 40),
        (2, 0, 40),
    ]
