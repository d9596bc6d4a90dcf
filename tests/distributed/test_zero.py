"""DeepSpeed's stages step on the gradient of the batch that was not split, and reduce what the plan says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.distributed.gradients import EVALUATED
from tests.distributed.worlds import Worlds
from tests.distributed.zero import CLIP, STAGES, zero_cases

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
WORLDS = (1, 2, 3)
over_all = pytest.mark.parametrize(("world", "stage"), [(world, stage) for world in WORLDS for stage in STAGES])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """World size → what rank 0 measured, stage by stage and case by case."""
    return Worlds("tests.distributed.zero", tmp_path_factory.mktemp("zero"), timeout=1000)


def of_stage(found: dict[str, Any], world: int, stage: int) -> dict[str, Any]:
    cases = {case.name: found[f"{stage}/{case.name}"] for case in zero_cases(world)}
    assert len(cases) == 48
    return cases


@over_all
def test_gradient_is_that_of_the_unsplit_batch(measured: Worlds, world: int, stage: int) -> None:
    for name, case in of_stage(measured[world], world, stage).items():
        assert case["error"] < 1e-5, name
        assert case["norm_error"] < 1e-5, name
        assert case["loss_error"] < 1e-5, name


@over_all
def test_the_norm_is_the_one_before_clipping(measured: Worlds, world: int, stage: int) -> None:
    clipped = measured[world][f"{stage}/clipped"]
    assert clipped["true"] > 10 * CLIP
    assert clipped["reported"] == pytest.approx(clipped["true"], rel=1e-5)
    assert clipped["stepped"] == pytest.approx(CLIP, rel=1e-4)


@over_all
def test_reductions_are_those_of_the_plan(measured: Worlds, world: int, stage: int) -> None:
    """Once per window at stages 0 and 1, in each micro-step at 2 and 3; in as many calls as were seen."""
    for name, case in of_stage(measured[world], world, stage).items():
        assert case["calls"] == case["seen"], name
        assert case["bytes"] == case["seen_bytes"], name
        if world > 1:
            times = [steps if stage >= 2 else 1 for steps in case["steps"]]
            assert case["bytes"] == [case["gradient_bytes"] * each for each in times], name


@over_all
def test_a_parameter_that_one_update_leaves_out_is_seen(measured: Worlds, world: int, stage: int) -> None:
    used, left_out = measured[world][f"{stage}/left out"]
    assert not used
    assert "elements of the gradient were reduced: the loss does not use every parameter" in left_out


@over_all
def test_evaluation_counts_every_sample_once(measured: Worlds, world: int, stage: int) -> None:
    """On ranks that all go through each forward pass, though some have no samples left."""
    for samples in EVALUATED:
        numbers = range(samples)
        weights = [(number + 1) % 3 for number in numbers]
        weighted = sum(number * weight for number, weight in zip(numbers, weights, strict=True)) / sum(weights)
        assert measured[world][f"{stage}/evaluated"][str(samples)] == {
            "number": (samples - 1) / 2,
            "weighted": weighted,
        }


@over_all
def test_a_state_is_kept_in_parts_and_taken_up_bit_for_bit(measured: Worlds, world: int, stage: int) -> None:
    """A tied weight once, a frozen one in its own format, and parameters whose parts begin and end within a row."""
    found = measured[world][f"{stage}/states"]
    parameters = ["a.bias", "a.weight", "b.bias", "n.bias", "n.weight"]
    frozen = ["model f.bias", "model f.weight"]
    buffers = [f"model n.{name}" for name in ("num_batches_tracked", "running_mean", "running_var")]
    state = ("exp_avg", "exp_avg_sq", "step")
    remembered = [f"optimizer {index}.{key}" for index in range(len(parameters)) for key in state]
    assert found["names"] == sorted([*(f"model {name}" for name in parameters), *frozen, *buffers, *remembered])
    assert (found["padded"] > 0) == (stage == 3 and world > 1)
    assert set(found["strange"]).isdisjoint({*frozen, "model a.weight"})
    assert found["taken"]
    assert found["alike"]
    assert sorted(found["still"]) == frozen
