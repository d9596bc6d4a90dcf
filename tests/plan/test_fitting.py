from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.plan.changes import changes, recipe_mark
from launcher.plan.fitting import Findings, FoundMicro, even_micro, find_most, most_micro
from launcher.plan.planner import Plan, make_plan, plan_again, with_found
from launcher.plan.topology import Topology
from launcher.plan.windows import micro_steps
from launcher.recipe.schema import Recipe


def recipe(**sections: Any) -> Recipe:
    base: dict[str, Any] = {
        "task": {"entry": "package.module:Task"},
        "batch": {"global": 64, "micro": "auto"},
        "train": {"updates": 10},
        "data": {"samples": 200},
    }
    return Recipe.model_validate({**base, **sections})


def plan_of(world: int = 2, device: Any = "cuda", **sections: Any) -> Plan:
    return make_plan(recipe(**sections), Topology(nodes=1, nproc_per_node=world, device=device))


@given(batch=st.integers(1, 3000), world=st.integers(1, 20), limit=st.integers(0, 4000))
@settings(max_examples=300, deadline=None)
def test_what_is_found_fits_and_nothing_larger_is_faster(batch: int, world: int, limit: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    found, too_large = find_most(batch, world, fits)
    most = most_micro(batch, world)
    assert len(tried) == len(set(tried)) <= 3 * batch.bit_length() + 3
    assert max(tried) <= most
    assert found <= limit
    assert (too_large is None) == (found == most)
    if limit == 0:
        assert found == 0
    else:
        largest = min(limit, most)
        steps = [max(micro_steps(batch, size, world)) for size in (found, largest)]
        assert steps[0] == steps[1], "the largest that fits makes fewer micro-steps"


@given(batch=st.integers(1, 3000), world=st.integers(1, 20), fits=st.integers(1, 4000))
@settings(max_examples=300, deadline=None)
def test_the_micro_batch_that_is_taken(batch: int, world: int, fits: int) -> None:
    micro = even_micro(batch, world, fits)
    most = min(fits, most_micro(batch, world))
    assert 1 <= micro <= most
    steps = micro_steps(batch, micro, world)
    assert batch < world or min(steps) > 0, "a rank has nothing"
    equal = batch % (micro * world) == 0
    assert equal or max(steps) <= max(micro_steps(batch, most, world))
    assert not equal or micro >= 0.75 * most or max(steps) <= max(micro_steps(batch, most, world))


@pytest.mark.parametrize(
    ("batch", "world", "fits", "taken"),
    [(64, 2, 32, 32), (64, 2, 12, 11), (64, 2, 9, 8), (48, 2, 12, 12), (4096, 1, 37, 32), (9, 4, 3, 2), (3, 4, 1, 1)],
)
def test_equal_parts_where_they_are_near(batch: int, world: int, fits: int, taken: int) -> None:
    assert even_micro(batch, world, fits) == taken


def test_before_it_is_found_the_plan_has_the_most_that_could_be() -> None:
    assert plan_of(2).batch.micro == 32
    assert plan_of(3).batch.micro == 22
    assert plan_of(4, batch={"global": 9, "micro": "auto"}).batch.micro_steps == (2, 1, 1, 1)


def test_on_a_cpu_the_plan_warns() -> None:
    assert not any("CPU" in warning for warning in plan_of(device="cuda").warnings)
    assert any("the system ends a process" in warning for warning in plan_of(device="cpu").warnings)


def test_what_was_found_is_planned_and_stays_on_other_ranks() -> None:
    plan = with_found(plan_of(2), [FoundMicro(since=0, micro=11, fits=11, too_large=16)])
    assert (plan.batch.micro, plan.batch.micro_steps) == (11, (3, 3))
    assert plan.warnings == plan_of(2).warnings
    again = plan_again(plan, Topology(nodes=1, nproc_per_node=3, device="cuda"))
    assert (again.batch.micro, again.batch.micro_steps) == (11, (2, 2, 2))
    assert Plan.model_validate_json(plan.to_json()) == plan


def test_a_number_is_halved_too_and_a_check_of_three_holds_for_what_was_asked() -> None:
    asked = {"global": 64, "micro": 16, "accumulation": 2}
    plan = with_found(plan_of(2, batch=asked), [FoundMicro(since=3, micro=8)])
    assert (plan.batch.global_, plan.batch.micro, plan.batch.accumulation) == (64, 8, 4)


def test_each_update_has_the_micro_batch_that_it_had_first() -> None:
    found = [FoundMicro(since=2, micro=16), FoundMicro(since=4, micro=8)]
    plan = with_found(plan_of(2), found)
    assert [window.micro for window in plan.windows()] == [16, 16, 16, 16, 8, 8, 8, 8, 8, 8]
    assert [window.micro for window in plan.windows(first_update=3)] == [16, 8, 8, 8, 8, 8, 8]


def test_findings_are_kept_for_the_same_choice_only(tmp_path: Path) -> None:
    file, found = tmp_path / "found.json", (FoundMicro(since=0, micro=11, fits=12, too_large=16),)
    assert Findings.read(file, recipe()) == ()
    file.write_text(Findings.of(recipe(), found).to_json())
    assert Findings.read(file, recipe()) == found
    assert Findings.read(file, recipe(batch={"global": 64, "micro": 32})) == ()
    file.write_text("{")
    assert Findings.read(file, recipe()) == ()


def test_a_run_whose_memory_ran_out_goes_on_with_the_cure() -> None:
    begun = plan_of(batch={"global": 64, "micro": 32})
    for cure in ({"micro": 16}, {"micro": "auto"}, {"micro": 32, "on_out_of_memory": "halve"}):
        now = plan_of(batch={"global": 64, **cure})
        assert not list(changes(begun, now))
        assert recipe_mark(begun) == recipe_mark(now)


def test_halving_follows_from_auto_unless_it_is_said() -> None:
    asked: list[dict[str, Any]] = [{"micro": 8}, {"micro": "auto"}, {"micro": "auto", "on_out_of_memory": "stop"}]
    asked.append({"micro": 8, "on_out_of_memory": "halve"})
    halves = [recipe(batch={"global": 64, **batch}).batch.halves for batch in asked]
    assert halves == [False, True, False, True]
