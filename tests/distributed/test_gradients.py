"""Rules 1 to 5: the gradient is the big batch's, and it is reduced once per update."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.distributed.gradients import EVALUATED, Case, cases, splits
from tests.processes import torchrun

WORLDS = (1, 2, 3)
Measured = dict[int, list[dict[str, Any]]]
ALL = [pytest.param(world, case, id=f"{world}-{case.name}") for world in WORLDS for case in cases(world)]
REDUCED = [parameters for parameters in ALL if parameters.values[0] != 1]
# Short micro-batches weigh too much, and so do short samples wherever there is more than one micro-batch.
NAIVE_IS_WRONG = [(world, name, "samples") for world in WORLDS for name in ("uneven micro-batch", "prime")] + [
    (world, split.name, "tokens")
    for world in WORLDS
    for split in splits(world)
    if world * split.micro < split.global_batch or (world > 1 and split.name == "K=1")
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """World size → what each rank measured, case by case."""
    found = {}
    for world in WORLDS:
        out = tmp_path_factory.mktemp("gradients") / f"{world}.json"
        torchrun("tests.distributed.gradients", str(out), ranks=world)
        found[world] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize(("world", "case"), ALL)
def test_gradient_is_that_of_the_unsplit_batch(measured: Measured, world: int, case: Case) -> None:
    for results in measured[world]:
        assert results[case.name]["error"] < 1e-12
        assert results[case.name]["loss_error"] < 1e-12


@pytest.mark.parametrize(("world", "case"), ALL)
def test_windows_without_items_are_known_to_be(measured: Measured, world: int, case: Case) -> None:
    for results in measured[world]:
        several_by_samples = case.layout in ("own forwards", "trunk")
        assert results[case.name]["empty"] >= (case.items == "none on a rank")
        assert case.items == "none on a rank" or results[case.name]["empty"] == 0 or several_by_samples


@pytest.mark.parametrize(("world", "split", "items"), NAIVE_IS_WRONG)
def test_the_naive_loop_is_seen_to_be_wrong(measured: Measured, world: int, split: str, items: str) -> None:
    assert measured[world][0][f"{split}/{items}/one/joint"]["naive_error"] > 1e-3


@pytest.mark.parametrize(("world", "case"), REDUCED)
def test_one_reduction_of_every_bucket_per_update(measured: Measured, world: int, case: Case) -> None:
    for results in measured[world]:
        result = results[case.name]
        buckets = result["buckets"]
        assert buckets > 1
        # DDP fills its buckets anew after the first backward, in the order in which gradients came.
        assert result["calls"][1:] == [buckets] * (len(result["calls"]) - 1)
        assert result["seen"] == result["calls"]
        assert set(result["bytes"]) == {result["gradient_bytes"]}


@pytest.mark.parametrize("samples", EVALUATED)
@pytest.mark.parametrize("world", WORLDS)
def test_evaluation_counts_every_sample_once(measured: Measured, world: int, samples: int) -> None:
    numbers = range(samples)
    weighted = sum(number * ((number + 1) % 3) for number in numbers) / sum((number + 1) % 3 for number in numbers)
    for results in measured[world]:
        assert results["evaluated"][str(samples)] == {"number": (samples - 1) / 2, "weighted": weighted}


@pytest.mark.parametrize(("world", "name"), [(w, n) for w in WORLDS[1:] for n in ("K=1", "K=4", "K=7")])
def test_the_count_sees_reductions_that_are_not_held_back(measured: Measured, world: int, name: str) -> None:
    steps = int(name[2:])
    for results in measured[world]:
        result = results[f"{name}/samples/one/joint"]
        assert steps in result["micro_steps"]
        assert steps * result["buckets"] in result["calls_always_synced"]
