"""What a proof finds in tasks that are equivalent, and in those that are not, each for a reason of its own."""

from __future__ import annotations

import json

import pytest

from launcher.rundir.proof import Proof
from tests.processes import torchrun
from tests.proof.causes import TASKS

WORLDS = [pytest.param(1, marks=pytest.mark.long), 2, pytest.param(3, marks=pytest.mark.long)]
SOUND = ("Sound", "Large", "Counted", "Augmented", "Cancelling", "SingleOnly")
CAUSES: dict[str, dict[str, tuple[str, ...]]] = {
    "Normalised": {"batchnorm": ("1 (BatchNorm1d)",)},
    "NormalisedWithoutMemory": {"batchnorm": ("1 (BatchNorm1d)",)},
    "Dropped": {"randomness": ("1 (Dropout)",)},
    "Noisy": {"randomness": ("the model itself (NoisyNetwork)", "second (NoisyLayer)")},
    "NormalisedAndDropped": {"batchnorm": ("1 (BatchNorm1d)",), "randomness": ("3 (Dropout)",)},
    "Whitened": {"mixed samples": ("loss", "1 (Whitening)")},
    "Remembering": {"state": ("0.parametrizations.weight.0._u", "0.parametrizations.weight.0._v")},
    "Ragged": {"mean of means": ("loss",)},
    "RaggedAndLarge": {"mean of means": ("loss",)},
    "PaddingCounted": {"items": ("loss",)},
    "Summed": {"sum or mean": ("size",)},
    "Contrastive": {"mixed samples": ("loss",)},
    "Collated": {"data": ("Task.collate",)},
    "Moody": {"state": ()},
    "NotFinite": {"not finite": ("0.weight", "0.bias", "2.weight", "2.bias")},
    "Disagreeing": {"editions": ()},
}
OF_RANKS: dict[str, dict[str, tuple[str, ...]]] = {
    "OwnStart": {"rank-dependent parameters": ("2.bias",)},
    "OwnLoss": {"rank-dependent": ()},
    "OwnData": {"rank-dependent": ()},
}


@pytest.fixture(scope="module", params=WORLDS)
def proofs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Proof]:
    """Task → its proof, on so many ranks."""
    out = tmp_path_factory.mktemp("proofs") / "proofs.json"
    torchrun("tests.proof.causes", str(out), ranks=request.param)
    return {task: Proof.model_validate(proof) for task, proof in json.loads(out.read_text()).items()}


@pytest.fixture
def world(proofs: dict[str, Proof]) -> int:
    return proofs["Sound"].shape.world_size


def test_every_task_is_tested() -> None:
    assert {*SOUND, *CAUSES, *OF_RANKS} == set(TASKS)


@pytest.mark.parametrize("task", SOUND)
def test_sound_tasks_are_equivalent(proofs: dict[str, Proof], task: str) -> None:
    proof = proofs[task]
    assert proof.equivalent, proof
    assert proof.causes == ()


@pytest.mark.parametrize("task", CAUSES)
def test_the_cause_is_named_with_its_place(proofs: dict[str, Proof], task: str) -> None:
    proof = proofs[task]
    assert not proof.equivalent
    assert {cause.kind: cause.places for cause in proof.causes} == CAUSES[task]


@pytest.mark.parametrize("task", OF_RANKS)
def test_ranks_that_differ_are_found(proofs: dict[str, Proof], world: int, task: str) -> None:
    proof = proofs[task]
    assert proof.equivalent == (world == 1)
    assert {cause.kind: cause.places for cause in proof.causes} == ({} if world == 1 else OF_RANKS[task])


@pytest.mark.parametrize("task", ["Normalised", "NormalisedWithoutMemory", "Dropped", "Noisy", "NormalisedAndDropped"])
def test_what_is_switched_off_takes_the_error_with_it(proofs: dict[str, Proof], task: str) -> None:
    for cause in proofs[task].causes:
        assert cause.error_with is not None
        assert cause.error_without is not None
        assert cause.error_with > 1e-2
        assert cause.error_without < 1e-12


def test_rounding_is_told_from_a_wrong_gradient(proofs: dict[str, Proof]) -> None:
    proof = proofs["Cancelling"]
    assert proof.precision == "float64"
    assert proof.error is not None
    assert proof.error < 1e-9
    assert proof.float32_error is not None
    assert proof.float32_error > 1e-5
    single = proofs["SingleOnly"]
    assert single.precision == "float32"
    assert "the model does not run in float64, which would tell rounding apart: TypeError: float32 only" in single.notes


@pytest.mark.parametrize(("task", "most"), [("Large", 8), ("RaggedAndLarge", 4)])
def test_a_window_that_does_not_fit_is_sliced(proofs: dict[str, Proof], task: str, most: int) -> None:
    shape = proofs[task].shape
    assert shape.slices > 1
    assert shape.slice_samples <= most


def test_numbers_of_the_window(proofs: dict[str, Proof], world: int) -> None:
    proof = proofs["Sound"]
    assert proof.shape.samples == 18
    assert proof.shape.micro_steps == {1: (5,), 2: (3, 2), 3: (2, 2, 1)}[world]
    assert proof.shape.slices == 1
    assert proof.all_reduces.calls == (0 if world == 1 else 1)
    gradient = 37 * 4  # 4 × 6 + 6 + 6 + 1 parameters
    assert proof.all_reduces.bytes == proof.all_reduces.planned_bytes == (0 if world == 1 else gradient)
    assert proofs["Counted"].shape.items["loss"] > 18
    (loss,) = proof.losses
    assert loss.accumulated == pytest.approx(loss.one_batch, rel=1e-6)


def test_hidden_weights_are_told(proofs: dict[str, Proof]) -> None:
    (cause,) = proofs["Ragged"].causes
    assert "weigh 1 : 0.556 : 0.889 when two of them are one batch, and are counted as 1 : 1 : 1" in cause.evidence
    assert "Task.items" in cause.cure
