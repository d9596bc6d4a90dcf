"""Every window begins with the buffers of rank 0, whatever holds the ranks together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.metrics import comparable_rows
from tests.processes import launcher

SETTINGS = ("task.entry=mortal.py:Centered", "train.updates=8", "checkpoint.every=null", "launch.nproc_per_node=2")
ENGINES = {
    "deferred": ("batch.on_out_of_memory=halve",),
    "accelerate": ("parallel.engine=accelerate",),
    "fsdp": ("parallel.engine=fsdp", "parallel.fsdp.wrap=[Linear]"),
    **{f"zero{stage}": ("parallel.engine=deepspeed", f"parallel.deepspeed.stage={stage}") for stage in range(4)},
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of DDP."""
    return losses(tmp_path_factory.mktemp("ddp"), ())


def losses(runs: Path, engine: tuple[str, ...]) -> list[float]:
    where = ("--runs", str(runs), "--run-id", "it")
    done = launcher("run", "tests/tasks/mortal.yaml", *SETTINGS, *engine, *where, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return [row["train/loss"] for row in comparable_rows(runs / "it")]


@pytest.mark.parametrize(
    "engine", ["deferred", *(pytest.param(name, marks=pytest.mark.long) for name in ENGINES if name != "deferred")]
)
def test_the_losses_are_those_of_ddp(tmp_path: Path, engine: str, expected: list[float]) -> None:
    assert losses(tmp_path, ENGINES[engine]) == pytest.approx(expected, rel=1e-5)
