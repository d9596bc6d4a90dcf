from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.errors import RequestError
from launcher.plan.planner import Plan, make_plan, with_facts
from launcher.plan.topology import Machine, Topology, choose_topology
from launcher.plan.worlds import compare_worlds
from launcher.recipe.schema import LaunchSection, Recipe


def recipe(**sections: Any) -> Recipe:
    base: dict[str, Any] = {
        "task": {"entry": "package.module:Task"},
        "batch": {"global": 256, "micro": 32},
        "train": {"epochs": 20},
        "data": {"samples": 1437},
    }
    return Recipe.model_validate({**base, **sections})


def plan_for(world: int = 2, batchnorm: tuple[str, ...] = (), **sections: Any) -> Plan:
    return make_plan(recipe(**sections), Topology(nodes=1, nproc_per_node=world, device="cpu"), batchnorm)


@given(batch=st.integers(1, 5000), micro=st.integers(1, 600), world=st.integers(1, 70))
@settings(max_examples=300, deadline=None)
def test_any_global_batch_on_any_number_of_ranks(batch: int, micro: int, world: int) -> None:
    plan = plan_for(world, batch={"global": batch, "micro": micro}, data={"samples": 100_000}).batch
    assert plan.global_ == batch
    assert len(plan.micro_steps) == world
    assert plan.accumulation == max(plan.micro_steps) == -(-sum(plan.micro_steps) // world)
    assert (sum(plan.micro_steps) - 1) * plan.micro + plan.smallest_micro_batch == batch
    assert 0 < plan.efficiency <= 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"global": 256, "micro": 32}, (256, 32, 4)),
        ({"global": 256, "accumulation": 4}, (256, 32, 4)),
        ({"micro": 32, "accumulation": 4}, (256, 32, 4)),
        ({"global": 256, "micro": 32, "accumulation": 4}, (256, 32, 4)),
        ({"global": 250, "micro": 32}, (250, 32, 4)),
        ({"global": 250, "accumulation": 4}, (250, 32, 4)),
        ({"global": 5, "micro": 32}, (5, 5, 1)),
    ],
)
def test_any_two_of_the_batch_give_the_third(given: dict[str, int], expected: tuple[int, int, int]) -> None:
    batch = plan_for(batch=given).batch
    assert (batch.global_, batch.micro, batch.accumulation) == expected


@pytest.mark.parametrize(
    ("given", "wrong", "cure"),
    [
        (
            {"global": 250, "micro": 32, "accumulation": 4},
            "micro 32 × accumulation 4 × 2 ranks = 256, not global 250",
            "batch.global=256",
        ),
        ({"global": 9, "accumulation": 4}, "global 9 cannot be split into 4", "batch.global=8 or batch.global=16"),
    ],
)
def test_a_batch_that_contradicts_itself_is_refused(given: dict[str, int], wrong: str, cure: str) -> None:
    with pytest.raises(RequestError) as refused:
        plan_for(batch=given)
    assert wrong in str(refused.value)
    assert cure in str(refused.value)


@pytest.mark.parametrize(
    ("train", "tail", "updates", "per_epoch"),
    [
        ({"epochs": 20}, "keep", 120, 6),
        ({"epochs": 20}, "drop", 100, 5),
        ({"updates": 7}, "keep", 7, 6),
        ({"samples": 1437}, "keep", 6, 6),
        ({"samples": 1438}, "keep", 7, 6),
        ({"samples": 2560}, "drop", 10, 5),
        ({"samples": 2561}, "drop", 11, 5),
    ],
)
def test_length_counts_updates(train: dict[str, int], tail: str, updates: int, per_epoch: int) -> None:
    plan = plan_for(train=train, batch={"global": 256, "micro": 32, "tail": tail})
    assert (plan.length.updates, plan.length.updates_per_epoch) == (updates, per_epoch)
    assert plan.length.tail_samples == 157
    assert len(list(plan.windows())) == updates


def test_length_is_the_same_at_every_world_size() -> None:
    assert {plan_for(world).length.updates for world in (1, 2, 3, 8, 64)} == {120}


def test_what_depends_on_unknown_data_is_unknown_until_it_is_there() -> None:
    plan = plan_for(data={})
    assert (plan.length.updates, plan.length.updates_per_epoch, plan.reduction) == (None, None, None)
    known = with_facts(plan, samples=1437, parameters=10)
    assert known == with_facts(plan_for(model={"parameters": 10}), samples=1437, parameters=10)
    assert known.length.updates == 120


def test_facts_that_contradict_the_recipe_are_refused() -> None:
    with pytest.raises(RequestError, match=r"data.samples: the recipe says 1437, but there are 1438"):
        with_facts(plan_for(), samples=1438, parameters=1)


def test_bytes_reduced_are_one_copy_of_the_gradients_whatever_k_is() -> None:
    for micro, accumulation in ((128, 1), (32, 4), (8, 16)):
        reduction = plan_for(batch={"global": 256, "micro": micro}, model={"parameters": 1000}).reduction
        assert reduction is not None
        assert reduction.bytes_per_update == 4000
        assert reduction.bytes_without_no_sync == 4000 * accumulation


def test_plan_survives_its_file() -> None:
    plan = plan_for(3, batch={"global": 250, "micro": 32}, model={"parameters": 10})
    assert Plan.model_validate_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("sections", "world", "expected"),
    [
        ({"batch": {"global": 224, "micro": 32}}, 2, "ranks have 3 or 4 micro-steps: 12.5% of their time"),
        ({"batch": {"global": 256, "micro": 32}}, 16, "8 of 16 ranks have no samples"),
        ({"batch": {"global": 256, "micro": 32, "tail": "drop"}}, 2, "leaves out 157 of 1437 samples"),
        ({"batch": {"accumulation": 4, "micro": 32}}, 2, "set batch.global=256 to keep it"),
        ({"schedule": {"warmup": 120}}, 2, "takes 120 updates and the run has 120"),
        ({"checkpoint": {"minutes": 0}}, 2, "nothing is saved"),
        ({"task": None, "script": {"path": "train.py"}}, 3, "sees 288 samples per update, not 256"),
    ],
)
def test_warnings_say_what_hurts(sections: dict[str, Any], world: int, expected: str) -> None:
    assert any(expected in warning for warning in plan_for(world, **sections).warnings)


def test_a_good_plan_has_no_warnings() -> None:
    assert plan_for().warnings == ()


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"global": 256, "micro": 1}, "batch.micro is 1"),
        ({"global": 257, "micro": 32}, "the last micro-batch of a window has 1 sample"),
        ({"global": 256, "micro": 31}, None),
        ({"global": 256, "micro": 52}, "the last micro-batch of an epoch has 1 sample"),  # the tail: 157 = 3 × 52 + 1
    ],
)
def test_batchnorm_is_named_and_single_samples_are_warned_of(batch: dict[str, int], expected: str | None) -> None:
    warnings = plan_for(batchnorm=("task.py:31 BatchNorm2d",), batch=batch).warnings
    assert any("task.py:31 BatchNorm2d" in warning for warning in warnings)
    assert any(expected in warning for warning in warnings) if expected else not any("1 sample" in w for w in warnings)


@pytest.mark.parametrize(
    ("rule", "batch", "scale"), [("linear", 512, 2.0), ("sqrt", 1024, 2.0), ("none", 512, 1.0), ("linear", 128, 0.5)]
)
def test_learning_rate_follows_the_batch_when_asked(rule: str, batch: int, scale: float) -> None:
    plan = plan_for(
        batch={"global": batch, "micro": 32},
        lr_scaling={"rule": rule, "reference_batch": 256},
        optimizer={"lr": 0.1},
    )
    assert plan.learning_rate.peak == pytest.approx(0.1 * scale)


@pytest.mark.parametrize("world", [1, 2, 7])
def test_schedule_counts_updates_never_ranks(world: int) -> None:
    rate = plan_for(
        world, schedule={"name": "cosine", "warmup": 0.1, "final": 0.1}, optimizer={"lr": 1.0}
    ).learning_rate
    assert rate.warmup_updates == 12
    assert [rate.at(0), rate.at(11), rate.at(12)] == pytest.approx([1 / 12, 1.0, 1.0])
    assert rate.at(66) == pytest.approx(0.55)
    assert rate.at(120) == pytest.approx(0.1)
    assert all(rate.at(update) >= rate.at(update + 1) for update in range(12, 119))


def test_linear_schedule_and_a_number_of_warmup_updates() -> None:
    rate = plan_for(schedule={"name": "linear", "warmup": 20}, optimizer={"lr": 1.0}).learning_rate
    assert [rate.at(9), rate.at(20), rate.at(70), rate.at(119)] == pytest.approx([0.5, 1.0, 0.5, 0.01])


STEP = {"name": "step", "factor": 0.5, "warmup": 2}


@pytest.mark.parametrize("at", [[12, 60], [0.1, 0.5], [12, 0.5]])
def test_a_step_schedule_drops_after_updates_or_fractions_of_the_run(at: list[float]) -> None:
    rate = plan_for(schedule={**STEP, "at": at}, optimizer={"lr": 1.0}).learning_rate
    assert rate.updates == 120
    assert [rate.at(update) for update in (0, 1, 11, 12, 59, 60, 119)] == [0.5, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert rate.at(13, skipped=2) == 1  # an update without a step holds the schedule


@pytest.mark.parametrize("world", [1, 3])
def test_a_schedule_in_epochs(world: int) -> None:
    rate = plan_for(world, schedule={**STEP, "at": [5, 10, 0.75], "unit": "epochs"}).learning_rate
    assert plan_for(world).length.updates_per_epoch == 6
    assert (rate.warmup_updates, rate.drops) == (12, (30, 60, 90))


def test_epochs_of_a_batch_schedule_have_as_many_updates_as_they_have() -> None:
    batch = {"global": 256, "micro": 32, "schedule": [{"global": 128, "updates": 12}]}
    plan = plan_for(batch=batch, schedule={**STEP, "at": [1, 2], "unit": "epochs", "warmup": 0})
    epochs = [window.update + 1 for window in plan.windows() if window.ends_epoch]
    assert plan.learning_rate.drops == tuple(epochs[:2])
    assert epochs[0] != epochs[1] - epochs[0]


def test_drops_in_epochs_wait_for_the_length_of_the_data() -> None:
    schedule = {**STEP, "at": [5, 10], "unit": "epochs"}
    plan = plan_for(schedule=schedule, data={}, train={"updates": 120})
    assert (plan.learning_rate.warmup_updates, plan.learning_rate.drops) == (0, ())
    found = with_facts(plan, samples=1437, parameters=1)
    assert (found.learning_rate.warmup_updates, found.learning_rate.drops) == (12, (30, 60))


def test_table_over_worlds_keeps_the_batch_and_says_where_it_cannot_be() -> None:
    rows = compare_worlds(recipe(), [1, 2, 3, 16])
    assert [row.global_batch for row in rows] == [256] * 4
    assert [(row.fewest_steps, row.most_steps) for row in rows] == [(8, 8), (4, 4), (2, 3), (0, 1)]
    contradictory = recipe(batch={"global": 256, "micro": 32, "accumulation": 4})
    assert [bool(row.refusal) for row in compare_worlds(contradictory, [1, 2, 4])] == [True, False, True]


@pytest.mark.parametrize(
    ("launch", "machine", "expected"),
    [
        ({}, Machine(8, 0), (1, "cpu")),
        ({}, Machine(8, 4), (4, "cuda")),
        ({"nproc_per_node": 2}, Machine(8, 4), (2, "cuda")),
        ({"nproc_per_node": 3}, Machine(2, 0), (3, "cpu")),
        ({"device": "cpu", "nproc_per_node": 2}, Machine(8, 1), (2, "cpu")),
    ],
)
def test_topology_takes_what_the_machine_has(
    launch: dict[str, Any], machine: Machine, expected: tuple[int, str]
) -> None:
    topology = choose_topology(LaunchSection.model_validate(launch), machine)
    assert (topology.world_size, topology.device) == expected


@pytest.mark.parametrize(
    ("launch", "machine", "cure"),
    [
        ({"nproc_per_node": 2}, Machine(8, 1), "Set launch.nproc_per_node=1, or launch.device=cpu"),
        ({"device": "cuda"}, Machine(8, 0), "Set launch.device=cpu"),
    ],
)
def test_topology_refuses_gpus_that_are_not_there(launch: dict[str, Any], machine: Machine, cure: str) -> None:
    with pytest.raises(RequestError, match=cure):
        choose_topology(LaunchSection.model_validate(launch), machine)
