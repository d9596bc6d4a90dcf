"""Rules 1 to 5: the gradient is the big batch's, and it is reduced once per update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from tests.distributed.gradients import EVALUATED, Case, cases
from tests.distributed.worlds import Worlds

WORLDS = (1, 2, 3)
QUICK = 2  # the world that `make test` has time for


def on_worlds(cases_of: Callable[[int], Iterable[Any]], worlds: Iterable[int] = WORLDS) -> list[ParameterSet]:
    """Parameters of a test: world size and case."""
    return [
        pytest.param(
            world, case, id=f"{world}-{getattr(case, 'name', case)}", marks=() if world == QUICK else pytest.mark.long
        )
        for world in worlds
        for case in cases_of(world)
    ]


ALL = on_worlds(cases)
REDUCED = on_worlds(cases, WORLDS[1:])


def naive_is_wrong(case: Case) -> bool:
    """Where windows have several micro-batches, and these differ in size or in how many items each sample has.

    A batch of one micro-batch is right however it is divided, and so are equal ones of equal samples.
    """
    split = case.split
    if case.edition != "joint" or case.layout not in ("one", "own forwards") or split.global_batch <= split.micro:
        return False
    return case.items != "samples" or case.layout == "own forwards" or split.name in ("uneven micro-batch", "prime")


NAIVE_IS_WRONG = on_worlds(lambda world: filter(naive_is_wrong, cases(world)))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """World size → what each rank measured, case by case."""
    return Worlds("tests.distributed.gradients", tmp_path_factory.mktemp("gradients"))


@pytest.mark.parametrize(("world", "case"), ALL)
def test_gradient_is_that_of_the_unsplit_batch(measured: Worlds, world: int, case: Case) -> None:
    for results in measured[world]:
        assert results[case.name]["error"] < 1e-12
        assert results[case.name]["loss_error"] < 1e-12


@pytest.mark.parametrize(("world", "case"), ALL)
def test_windows_without_items_are_known_to_be(measured: Worlds, world: int, case: Case) -> None:
    for results in measured[world]:
        several_by_samples = case.layout in ("own forwards", "trunk")
        assert results[case.name]["empty"] >= (case.items == "none on a rank")
        assert case.items == "none on a rank" or results[case.name]["empty"] == 0 or several_by_samples


@pytest.mark.parametrize(("world", "case"), NAIVE_IS_WRONG)
def test_the_naive_loop_is_seen_to_be_wrong(measured: Worlds, world: int, case: Case) -> None:
    """`loss / accumulation_steps`, averaged over the ranks; nan where a micro-batch has no items."""
    error = measured[world][0][case.name]["naive_error"]
    assert math.isnan(error) or error > 1e-3


@pytest.mark.parametrize(("world", "case"), REDUCED)
def test_one_reduction_of_every_bucket_per_update(measured: Worlds, world: int, case: Case) -> None:
    for results in measured[world]:
        result = results[case.name]
        buckets = result["buckets"]
        assert buckets > 1
        # DDP fills its buckets anew after the first backward, in the order in which gradients came.
        assert result["calls"][1:] == [buckets] * (len(result["calls"]) - 1)
        assert result["seen"] == result["calls"]
        assert set(result["bytes"]) == {result["gradient_bytes"]}


@pytest.mark.parametrize(("world", "samples"), on_worlds(lambda world: EVALUATED))
def test_evaluation_counts_every_sample_once(measured: Worlds, world: int, samples: int) -> None:
    numbers = range(samples)
    weighted = sum(number * ((number + 1) % 3) for number in numbers) / sum((number + 1) % 3 for number in numbers)
    for results in measured[world]:
        assert results["evaluated"][str(samples)] == {"number": (samples - 1) / 2, "weighted": weighted}


@pytest.mark.parametrize(("world", "name"), on_worlds(lambda world: ("K=1", "K=4", "K=7"), WORLDS[1:]))
def test_the_count_sees_reductions_that_are_not_held_back(measured: Worlds, world: int, name: str) -> None:
    steps = int(name[2:])
    for results in measured[world]:
        result = results[f"{name}/samples/one/joint"]
        assert steps in result["micro_steps"]
        assert steps * result["buckets"] in result["calls_always_synced"]
