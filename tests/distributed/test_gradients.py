"""Rules 1 and 3: the gradient is the big batch's, and it is reduced once per update."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.distributed.gradients import EVALUATED, cases
from tests.processes import torchrun

WORLDS = (1, 2, 3)
ALL = [(world, case.name, kind) for world in WORLDS for case in cases(world) for kind in ("mean", "sum")]
REDUCED = [(world, case.name) for world in WORLDS[1:] for case in cases(world)]
NAIVE_IS_WRONG = [
    (world, name) for world in WORLDS for name in ("uneven micro-batch", "prime")
]  # short micro-batches weigh too much


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """World size → what each rank measured, case by case."""
    found = {}
    for world in WORLDS:
        out = tmp_path_factory.mktemp("gradients") / f"{world}.json"
        torchrun("tests.distributed.gradients", str(out), ranks=world)
        found[world] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize(("world", "name", "kind"), ALL)
def test_gradient_is_that_of_the_unsplit_batch(
    measured: dict[int, list[dict[str, Any]]], world: int, name: str, kind: str
) -> None:
    for results in measured[world]:
        assert results[f"{name}/{kind}"]["error"] < 1e-12
        assert results[f"{name}/{kind}"]["loss_error"] < 1e-12


@pytest.mark.parametrize(("world", "name"), NAIVE_IS_WRONG)
def test_the_naive_loop_is_seen_to_be_wrong(measured: dict[int, list[dict[str, Any]]], world: int, name: str) -> None:
    assert measured[world][0][f"{name}/mean"]["naive_error"] > 1e-3


@pytest.mark.parametrize(("world", "name"), REDUCED)
def test_one_reduction_of_every_bucket_per_update(
    measured: dict[int, list[dict[str, Any]]], world: int, name: str
) -> None:
    for results in measured[world]:
        result = results[f"{name}/mean"]
        buckets = result["buckets"]
        assert buckets > 1
        # DDP fills its buckets anew after the first backward, in the order in which gradients came.
        assert result["calls"][1:] == [buckets] * (len(result["calls"]) - 1)
        assert set(result["bytes"]) == {result["gradient_bytes"]}


@pytest.mark.parametrize("samples", EVALUATED)
@pytest.mark.parametrize("world", WORLDS)
def test_evaluation_counts_every_sample_once(
    measured: dict[int, list[dict[str, Any]]], world: int, samples: int
) -> None:
    numbers = range(samples)
    weighted = sum(number * ((number + 1) % 3) for number in numbers) / sum((number + 1) % 3 for number in numbers)
    for results in measured[world]:
        assert results["evaluated"][str(samples)] == {"number": (samples - 1) / 2, "weighted": weighted}


@pytest.mark.parametrize(("world", "name"), [(w, n) for w in WORLDS[1:] for n in ("K=1", "K=4", "K=7")])
def test_the_count_sees_reductions_that_are_not_held_back(
    measured: dict[int, list[dict[str, Any]]], world: int, name: str
) -> None:
    steps = int(name[2:])
    for results in measured[world]:
        result = results[f"{name}/mean"]
        assert steps in result["micro_steps"]
        assert steps * result["buckets"] in result["calls_always_synced"]
