"""The shipped recipes, trained for real."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.processes import launcher

DIGITS = "recipes/digits/recipe.yaml"
WORLDS = [1, 2, *(pytest.param(world, marks=pytest.mark.long) for world in (3, 4))]
BATCHES = {"divides": ("batch.global=256",), "does not divide": ("batch.global=250", "batch.micro=32")}
QUICK_AND_LONG = [pytest.param("divides", marks=pytest.mark.long), "does not divide"]
CONTRACT = {
    "train/global_step", "train/loss", "train/learning_rate", "train/grad_norm", "train/epoch", "train/samples_seen",
    "batch/global_samples", "batch/global_items", "batch/micro_steps", "batch/world_size", "comm/allreduce_calls",
    "comm/allreduce_bytes", "throughput/samples_per_sec", "time/update", "time/data", "memory/peak_bytes",
    "train/skipped_updates",
}  # fmt: skip


def train(runs: Path, recipe: str, *overrides: str) -> list[dict[str, Any]]:
    run_id = f"run{len(list(runs.iterdir()))}"
    done = launcher("run", recipe, *overrides, "--runs", str(runs), "--run-id", run_id)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = runs / run_id / "metrics.jsonl"
    return [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []


class Curves:
    """The rows of the first 24 updates, by batch and world size; each is trained when it is first asked for.

    Args:
        runs: a folder for the runs.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._found: dict[tuple[str, int], list[dict[str, Any]]] = {}

    def __call__(self, batch: str, world: int) -> list[dict[str, Any]]:
        if (batch, world) not in self._found:
            settings = (*BATCHES[batch], "train.epochs=null", "train.updates=24", "eval.every=end")
            self._found[batch, world] = train(self._runs, DIGITS, f"launch.nproc_per_node={world}", *settings)
        return self._found[batch, world]


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Curves:
    return Curves(tmp_path_factory.mktemp("curves"))


@pytest.mark.parametrize("batch", QUICK_AND_LONG)
@pytest.mark.parametrize("world", WORLDS[1:])
def test_loss_curve_is_the_same_on_any_number_of_ranks(curves: Curves, batch: str, world: int) -> None:
    alone, together = curves(batch, 1), curves(batch, world)
    assert len(alone) == len(together) == 24
    for one, other in zip(alone, together, strict=True):
        assert other["train/loss"] == pytest.approx(one["train/loss"], rel=1e-4)
        assert other["train/learning_rate"] == one["train/learning_rate"]
        assert other["train/samples_seen"] == one["train/samples_seen"]


@pytest.mark.parametrize(
    ("batch", "full", "tail"),
    [pytest.param("divides", 256, 157, marks=pytest.mark.long), ("does not divide", 250, 187)],
)
@pytest.mark.parametrize("world", WORLDS)
def test_every_full_window_has_the_global_batch(curves: Curves, batch: str, full: int, tail: int, world: int) -> None:
    rows = curves(batch, world)
    assert [row["batch/global_samples"] for row in rows] == ([full] * 5 + [tail]) * 4
    assert rows[5]["train/samples_seen"] == 1437
    assert {row["batch/world_size"] for row in rows} == {world}


@pytest.mark.parametrize("batch", QUICK_AND_LONG)
@pytest.mark.parametrize("world", WORLDS)
def test_gradients_cross_once_per_update(curves: Curves, batch: str, world: int) -> None:
    """One bucket holds the whole model: one call, with one copy of its gradients, whatever K is."""
    rows = curves(batch, world)
    assert {row["comm/allreduce_calls"] for row in rows} == {0 if world == 1 else 1}
    assert {row["comm/allreduce_bytes"] for row in rows} == {0 if world == 1 else 38_282 * 4}


def test_rows_have_the_names_of_the_contract(curves: Curves) -> None:
    rows = curves("does not divide", 2)
    now_and_then = {10: {"train/gradient_noise_scale"}, 20: {"train/gradient_noise_scale"}}
    for update, row in enumerate(rows[:-1], start=1):
        assert set(row) == CONTRACT | now_and_then.get(update, set())
    assert set(rows[-1]) == CONTRACT | {"eval/accuracy", "eval/loss"}


@pytest.mark.parametrize("recipe", [DIGITS, pytest.param("recipes/digits/accelerate.yaml", marks=pytest.mark.long)])
def test_digits_are_recognised(tmp_path: Path, recipe: str) -> None:
    rows = train(tmp_path, recipe, "launch.nproc_per_node=2")
    assert rows[-1]["eval/accuracy"] > 0.97
    assert sum("eval/accuracy" in row for row in rows) == 20


@pytest.mark.long
def test_a_script_of_ones_own(tmp_path: Path) -> None:
    train(tmp_path, "recipes/plain_loop/recipe.yaml", "launch.nproc_per_node=2")
    log = (tmp_path / "run0" / "logs" / "rank_0.log").read_text()
    words = log.split()
    assert float(words[words.index("accuracy") + 1]) > 0.95
    assert "after 180 updates" in log


@pytest.mark.long
def test_a_loop_of_ones_own_with_an_accumulator(tmp_path: Path) -> None:
    """The same windows on any number of ranks, though 250 samples do not divide by 2 × 32."""
    said = []
    for run, world in enumerate((1, 2)):
        train(tmp_path, "recipes/own_loop/recipe.yaml", "train.epochs=5", f"launch.nproc_per_node={world}")
        said.append((tmp_path / f"run{run}" / "logs" / "rank_0.log").read_text().splitlines()[:2])
    alone, together = said
    assert together == alone
    assert alone[0].startswith("update 30: 187 samples, loss 0.")
    assert alone[1].endswith("after 30 updates")


@pytest.mark.long
def test_bf16_trains(tmp_path: Path) -> None:
    rows = train(tmp_path, DIGITS, "train.precision=bf16", "train.epochs=3", "launch.nproc_per_node=2")
    assert rows[-1]["eval/accuracy"] > 0.6


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles for a CPU with a C++ compiler")
def test_digits_are_compiled_rightly_or_refused(tmp_path: Path) -> None:
    """torch 2.13 gives their convolutions no gradient; another one that does must train as without."""
    settings = (
        "launch.nproc_per_node=2",
        "train.epochs=null",
        "train.updates=3",
        "eval.every=end",
        "launch.device=cpu",
    )
    run = ("run", DIGITS, *settings, "train.compile=true", "--runs", str(tmp_path), "--run-id", "compiled")
    done = launcher(*run, timeout=800)
    if done.returncode == 0:
        compiled = [json.loads(row) for row in (tmp_path / "compiled" / "metrics.jsonl").open()]
        plain = train(tmp_path, DIGITS, *settings)
        assert [row["train/loss"] for row in compiled] == pytest.approx([row["train/loss"] for row in plain], rel=1e-3)
        return
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "train.compile" in line and "warning" not in line)
    assert "compiles this model wrongly: the gradient of 0.weight differs by 100% from that of the model as" in line
    assert line.endswith("as do those of 3 others. Set train.compile=false.")
    assert not (tmp_path / "compiled" / "metrics.jsonl").read_text()
