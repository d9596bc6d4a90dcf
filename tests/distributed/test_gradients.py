"""Rules 1 to 5: the gradient is the big batch's, and it is reduced once per update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from tests.distributed.engines import ENGINES
from tests.distributed.gradients import EVALUATED, Case, cases
from tests.distributed.worlds import WorldsOfEngines

QUICK = {("ddp", 2)}  # the engines and worlds that `make test` has time for


def on_worlds(
    cases_of: Callable[[int, str], Iterable[Any]],
    engines: Iterable[str] = ENGINES,
    least_world: int = 1,
) -> list[ParameterSet]:
    """Parameters of a test: engine, world size and case."""
    return [
        pytest.param(
            engine,
            world,
            case,
            id=f"{engine}-{world}-{getattr(case, 'name', case)}",
            marks=() if (engine, world) in QUICK else pytest.mark.long,
        )
        for engine in engines
        for world in ENGINES[engine].worlds
        for case in cases_of(world, engine)
        if world >= least_world
    ]


ALL = on_worlds(cases)
REDUCED = on_worlds(cases, least_world=2)


def naive_is_wrong(case: Case) -> bool:
    """Where windows have several micro-batches, and these differ in size or in how many items each sample has.

    A batch of one micro-batch is right however it is divided, and so are equal ones of equal samples.
    """
    split = case.split
    if case.edition != "joint" or case.layout not in ("one", "own forwards") or split.global_batch <= split.micro:
        return False
    return case.items != "samples" or case.layout == "own forwards" or split.name in ("uneven micro-batch", "prime")


NAIVE_IS_WRONG = on_worlds(lambda world, engine: filter(naive_is_wrong, cases(world, engine)), ["ddp"])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> WorldsOfEngines:
    """Engine → world size → what each rank measured, case by case."""
    return WorldsOfEngines("tests.distributed.gradients", tmp_path_factory.mktemp("gradients"))


@pytest.mark.parametrize(("engine", "world", "case"), ALL)
def test_gradient_is_that_of_the_unsplit_batch(measured: WorldsOfEngines, engine: str, world: int, case: Case) -> None:
    for results in measured[engine][world]:
        assert results[case.name]["error"] < ENGINES[engine].tolerance
        assert results[case.name]["loss_error"] < ENGINES[engine].tolerance


@pytest.mark.parametrize(("engine", "world", "case"), ALL)
def test_windows_without_items_are_known_to_be(measured: WorldsOfEngines, engine: str, world: int, case: Case) -> None:
    for results in measured[engine][world]:
        several_by_samples = case.layout in ("own forwards", "trunk")
        assert results[case.name]["empty"] >= (case.items == "none on a rank")
        assert case.items == "none on a rank" or results[case.name]["empty"] == 0 or several_by_samples


@pytest.mark.parametrize(("engine", "world", "case"), NAIVE_IS_WRONG)
def test_the_naive_loop_is_seen_to_be_wrong(measured: WorldsOfEngines, engine: str, world: int, case: Case) -> None:
    """`loss / accumulation_steps`, averaged over the ranks; nan where a micro-batch has no items."""
    error = measured[engine][world][0][case.name]["naive_error"]
    assert math.isnan(error) or error > 1e-3


@pytest.mark.parametrize(("engine", "world", "case"), REDUCED)
def test_one_reduction_of_every_bucket_per_update(
    measured: WorldsOfEngines, engine: str, world: int, case: Case
) -> None:
    """As the engine counts them, as they are seen where they are issued, and as the plan says."""
    for results in measured[engine][world]:
        result = results[case.name]
        assert result["expected_calls"] > 1
        assert set(result["calls"]) == {result["expected_calls"]}
        assert result["seen"] == result["calls"]
        assert result["bytes"] == result["planned_bytes"]


@pytest.mark.parametrize(("engine", "world", "samples"), on_worlds(lambda world, engine: EVALUATED))
def test_evaluation_counts_every_sample_once(measured: WorldsOfEngines, engine: str, world: int, samples: int) -> None:
    numbers = range(samples)
    weighted = sum(number * ((number + 1) % 3) for number in numbers) / sum((number + 1) % 3 for number in numbers)
    for results in measured[engine][world]:
        assert results["evaluated"][str(samples)] == {"number": (samples - 1) / 2, "weighted": weighted}


@pytest.mark.parametrize(
    ("engine", "world", "name"), on_worlds(lambda world, engine: ("K=1", "K=4", "K=7"), ["ddp"], least_world=2)
)
def test_the_count_sees_reductions_that_are_not_held_back(
    measured: WorldsOfEngines, engine: str, world: int, name: str
) -> None:
    steps = int(name[2:])
    for results in measured[engine][world]:
        result = results[f"{name}/samples/one/joint"]
        assert steps in result["micro_steps"]
        assert steps * result["expected_calls"] in result["calls_always_synced"]
