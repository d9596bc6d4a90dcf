"""One recipe, any engine: the same windows, the same numbers and the same loss curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.engines import CURVES
from tests.metrics import comparable_rows
from tests.processes import launcher

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # a compiler takes its time on a machine that is busy
UPDATES = 50
TINY = (
    "task.args={width: 32, layers: 1, context: 64}",
    "model.parameters=null",
    "batch.global=50",  # 4 micro-batches, the last of 2: ranks have 2 and 1 or 2 micro-steps
    f"train.updates={UPDATES}",
    "launch.device=cpu",
    "tracking.wandb.mode=disabled",
)
ALIKE = ("train/global_step", "train/samples_seen", "train/learning_rate", "batch/global_samples", "batch/global_items")


def trained(runs: Path, world: int, *engine: str) -> list[dict[str, Any]]:
    run_id = f"on-{world}"
    arguments = ("--runs", str(runs), "--run-id", run_id, f"launch.nproc_per_node={world}", *TINY, *engine)
    done = launcher("run", "recipes/bytelm/recipe.yaml", *arguments, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return comparable_rows(runs / run_id)


@pytest.fixture(scope="module")
def of_ddp(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """World size → the rows of ddp."""
    runs = tmp_path_factory.mktemp("ddp")
    return {world: trained(runs, world) for world in (2, 3)}


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("engine", CURVES)
def test_the_loss_curve_is_that_of_ddp(
    tmp_path: Path, of_ddp: dict[int, list[dict[str, Any]]], engine: str, world: int
) -> None:
    found, expected = trained(tmp_path, world, *CURVES[engine]), of_ddp[world]
    assert [[row[name] for name in ALIKE] for row in found] == [[row[name] for name in ALIKE] for row in expected]
    assert len(found) == UPDATES
    assert expected[-1]["train/loss"] < expected[0]["train/loss"] - 0.5
    for own, other in zip(found, expected, strict=True):
        assert own["train/loss"] == pytest.approx(other["train/loss"], abs=1e-3)
        assert own["train/grad_norm"] == pytest.approx(other["train/grad_norm"], rel=1e-2)


def test_compiled_the_rows_are_the_same(tmp_path: Path) -> None:
    """By PyTorch's own compiler, on two ranks: twelve updates with a tail and clipping."""
    job = ("--runs", str(tmp_path), "launch.nproc_per_node=2", "train.updates=12", "parallel.bucket_mb=25")
    rows = []
    for compiles in ("false", "true"):
        arguments = ("run", "tests/tasks/mortal.yaml", "--run-id", compiles, *job, f"train.compile={compiles}")
        done = launcher(*arguments, "task.entry=mortal.py:Undropped", timeout=800)
        assert done.returncode == 0, done.stdout + done.stderr
        rows.append(comparable_rows(tmp_path / compiles))
    for plain, compiled in zip(*rows, strict=True):
        assert compiled == pytest.approx(plain, rel=1e-4)
