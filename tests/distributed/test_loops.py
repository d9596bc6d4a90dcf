"""Training loops whose answers are known: noise scale, skipped updates, fp16, ranks that drift apart."""

from __future__ import annotations

import math

import pytest

from tests.distributed.loops import NOISE_SCALE, UNREACHED
from tests.distributed.worlds import Worlds

WORLDS = (pytest.param(1, marks=pytest.mark.long), 4)


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """World size → what rank 0 saw."""
    return Worlds("tests.distributed.loops", tmp_path_factory.mktemp("loops"))


@pytest.mark.parametrize("world", WORLDS)
def test_noise_scale_is_that_of_the_closed_form(loops: Worlds, world: int) -> None:
    """Windows of 60 samples in micro-batches of 16: parts of unequal size."""
    found = [row["train/gradient_noise_scale"] for row in loops[world]["noise"] if "train/gradient_noise_scale" in row]
    assert found[-1] == pytest.approx(NOISE_SCALE, rel=0.1)


@pytest.mark.parametrize("world", WORLDS)
def test_a_window_without_items_is_skipped_and_counted(loops: Worlds, world: int) -> None:
    rows = loops[world]["empty"]["rows"]
    assert [row["train/skipped_updates"] for row in rows] == [0, 0, 1, 1, 1]
    assert [row["batch/global_items"] for row in rows] == [60, 60, 0, 60, 60]
    assert [row["train/samples_seen"] for row in rows] == [60, 120, 180, 240, 300]
    assert [row["train/tokens_seen"] for row in rows] == [60, 120, 120, 180, 240]
    assert "train/loss" not in rows[2]
    assert "train/grad_norm" not in rows[2]
    assert rows[2]["comm/allreduce_calls"] == 0
    assert all(math.isfinite(value) for row in rows for value in row.values())


@pytest.mark.parametrize("kind", ["empty", "overflow"])
@pytest.mark.parametrize("world", WORLDS)
def test_a_skipped_update_holds_the_schedule(loops: Worlds, world: int, kind: str) -> None:
    rates = [row["train/learning_rate"] for row in loops[world][kind]["rows"]]
    assert rates == pytest.approx([0.1, 0.08, 0.06, 0.06, 0.04])


@pytest.mark.parametrize("world", WORLDS)
def test_an_overflow_in_fp16_steps_on_nothing(loops: Worlds, world: int) -> None:
    rows = loops[world]["overflow"]["rows"]
    assert [row["train/skipped_updates"] for row in rows] == [0, 0, 1, 1, 1]
    assert rows[-1]["train/samples_seen"] == 300
    assert all(math.isfinite(value) for value in loops[world]["overflow"]["parameters"])


@pytest.mark.long
@pytest.mark.parametrize("kind", ["empty", "overflow"])
def test_skipped_updates_leave_the_same_parameters_on_any_number_of_ranks(loops: Worlds, kind: str) -> None:
    assert loops[4][kind]["parameters"] == pytest.approx(loops[1][kind]["parameters"], rel=1e-5)


@pytest.mark.parametrize("world", [4])
def test_ranks_that_drift_apart_are_stopped_and_named(loops: Worlds, world: int) -> None:
    where = f"the parameter 0.bias is not the same on all ranks: rank {world - 1} differs"
    drift = loops[world]["drift"]
    stopped = drift.pop("stopped")
    assert where in stopped
    assert f"after update {UNREACHED:,}" not in stopped, "it ended before the last update"
    assert drift == {
        "watched": f"after update 4 {where}",
        "at the end": f"after update 10 {where}",
        "off": "",
    }
