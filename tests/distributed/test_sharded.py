"""The engine fsdp: the gradient is the big batch's, what it issues is counted, and its state is whole."""

from __future__ import annotations

from typing import Any

import pytest

from tests.distributed.gradients import EVALUATED, Case
from tests.distributed.sharded import ALL, Kind
from tests.distributed.worlds import Worlds

WORLDS = [2, pytest.param(3, marks=pytest.mark.long), pytest.param(4, marks=pytest.mark.long)]
MEASURED = [
    pytest.param(world, kind, case, id=f"{world}-{kind.name}-{case.name}", marks=() if world == 2 else pytest.mark.long)
    for world, kind, case in ALL
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """World size → what each rank found; four ranks hold two copies of the model."""
    return Worlds("tests.distributed.sharded", tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize(("world", "kind", "case"), MEASURED)
def test_the_gradient_is_that_of_the_unsplit_batch(found: Worlds, world: int, kind: Kind, case: Case) -> None:
    for results in found[world]:
        result = results["measured"][f"{kind.name}/{case.name}"]
        assert result["error"] < 1e-12
        assert result["norm_error"] < 1e-12
        assert result["clipped_error"] < 1e-12
        assert result["parts_error"] < 1e-12


@pytest.mark.parametrize(("world", "kind", "case"), MEASURED)
def test_what_is_issued_is_counted(found: Worlds, world: int, kind: Kind, case: Case) -> None:
    for results in found[world]:
        result = results["measured"][f"{kind.name}/{case.name}"]
        groups = result["groups"]
        deferred = kind.settings.defer_reduction
        times = [1 if deferred else steps for steps in result["micro_steps"]]
        calls = [groups * time for time in times]
        padded = result["padded_bytes"]
        if kind.copies == 1:
            assert result["reduced"] == [[call, padded * time] for call, time in zip(calls, times, strict=True)]
            assert [list(pair) for pair in zip(result["reduced"], result["gathered"], strict=True)] == result["seen"]
        else:  # and an all-reduce of each group's part, once
            shards = world // kind.copies
            assert result["reduced"] == [
                [call + groups, padded * time + padded // shards] for call, time in zip(calls, times, strict=True)
            ]
        if case.layout == "one" and not kind.settings.checkpoint_activations:
            twice = 2 if kind.settings.reshard_after_forward else 1
            rest = groups - result["blocks"]  # gathered once
            gathers = [(result["blocks"] * twice + rest) * steps for steps in result["micro_steps"]]
            assert [calls for calls, _ in result["gathered"]] == gathers
            assert all(
                padded * steps <= size <= padded * steps * twice
                for steps, (_, size) in zip(result["micro_steps"], result["gathered"], strict=True)
            )


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("samples", EVALUATED)
def test_evaluation_counts_every_sample_once(found: Worlds, world: int, samples: int) -> None:
    """The model's first feature is the number itself: BatchNorm has the running statistics of rank 0."""
    numbers = range(samples)
    weighted = sum(number * ((number + 1) % 3) for number in numbers) / sum((number + 1) % 3 for number in numbers)
    for results in found[world]:
        assert results["evaluated"][str(samples)] == {"number": (samples - 1) / 2, "weighted": weighted}


@pytest.mark.parametrize("world", WORLDS)
def test_all_ranks_hear_of_a_gradient_that_overflows_on_one(found: Worlds, world: int) -> None:
    for results in found[world]:
        result = results["not finite"]
        assert (result["finite False"], result["applied False"], result["scale False"]) == (True, True, 4.0)
        assert (result["finite True"], result["applied True"], result["scale True"]) == (False, False, 2.0)
        assert result["moved False"] and not result["moved True"]


@pytest.mark.parametrize("world", WORLDS)
def test_a_parameter_that_is_not_used_is_named(found: Worlds, world: int) -> None:
    for results in found[world]:
        assert results["unused"].startswith("not.weight has no gradient: the loss does not use every parameter.")


@pytest.mark.parametrize("world", WORLDS)
def test_experts_that_ranks_use_in_turn_are_told_apart_or_refused(found: Worlds, world: int) -> None:
    for results in found[world]:
        refused, told_apart = results["swapped"]["every micro-step"], results["swapped"]["deferred"]
        half = 3 * world * -(-2 // world)  # of two rows of three, filled up to as many as the ranks share
        assert refused["said"].startswith(
            f"{half} of {2 * half} elements of the gradient were reduced: a micro-step does"
        )
        assert "Set parallel.fsdp.defer_reduction=true, or" in refused["said"]
        assert not told_apart["said"]
        assert told_apart["error"] < 1e-12


@pytest.mark.parametrize("world", WORLDS)
def test_a_weight_that_layers_share_is_gathered_in_one_place_or_refused(found: Worlds, world: int) -> None:
    for results in found[world]:
        cut = results["tied"].pop("cut")
        assert cut.startswith("parallel.fsdp.wrap: 0.first.weight (in Linear) and 0.second.weight (in Linear) are one")
        assert len(results["tied"]) == 4
        assert all(error < 1e-12 for error in results["tied"].values())


@pytest.mark.parametrize("world", WORLDS)
def test_a_block_that_runs_twice_is_refused_where_its_gradient_would_be_wrong(found: Worlds, world: int) -> None:
    for results in found[world]:
        on_data, on_its_own = results["used twice"]
        assert not on_data
        assert on_its_own.startswith("a Linear runs more than once in a micro-step, and fsdp would lose a part of its")


@pytest.mark.parametrize("world", WORLDS)
def test_half_precision_is_gathered_in_half_and_added_up_whole(found: Worlds, world: int) -> None:
    for results in found[world]:
        result = results["half"]
        assert 1e-4 < result["error"] < 2e-2
        assert (result["kept as"], result["reduced"], result["gathered"]) == (True, 1.0, 0.5)


@pytest.mark.parametrize("world", WORLDS)
def test_parts_are_compared_where_several_ranks_have_the_same(found: Worlds, world: int) -> None:
    for results in found[world]:
        differs = "after update 2 the parameter 0.weight is not the same on all ranks: ranks 1 and 3 hold two"
        assert results["guarded"] == (differs if world == 4 else "")


@pytest.mark.parametrize("world", WORLDS)
def test_the_model_of_rank_0_is_shared_out(found: Worlds, world: int) -> None:
    for results in found[world]:
        assert results["different models"] == 0


@pytest.mark.parametrize("world", WORLDS)
def test_a_state_is_kept_in_parts_and_goes_on_bit_for_bit(found: Worlds, world: int) -> None:
    names = ["a.bias", "a.weight", "b.bias", "n.bias", "n.num_batches_tracked", "n.running_mean", "n.running_var"]
    for results in found[world]:
        result: dict[str, Any] = results["states"]
        assert result["alike"] and result["moved"]
        assert result["names"] == sorted([*names, "n.weight"])
        assert result["same"] == {"b.weight": "a.weight"}
        assert result["remembered"] == 3 * 5  # the step and two means of each of five parameters
