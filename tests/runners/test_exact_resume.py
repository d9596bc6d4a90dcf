"""An exact run that is killed and goes on with other ranks ends with the files of one that never was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.faults.table import Kind
from tests.processes import launcher

pytestmark = pytest.mark.long
EXACT = "tests/tasks/exact.yaml"
UPDATES = 20
ALIKE = ("model.safetensors", "optimizer.safetensors")


def run(
    runs: Path, run_id: str, world: int, *arguments: str, env: Mapping[str, str] | None = None, expected: int = 0
) -> str:
    """Run the recipe on so many ranks; what it said."""
    settings = (f"launch.nproc_per_node={world}", "launch.restarts=0", *arguments)
    done = launcher("run", EXACT, "--runs", str(runs), "--run-id", run_id, *settings, env=env)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


def state(runs: Path, run_id: str) -> dict[str, bytes]:
    """What all ranks hold alike, in the last checkpoint of a run."""
    folder = runs / run_id / "checkpoints" / f"step_{UPDATES:08d}"
    return {name: (folder / name).read_bytes() for name in ALIKE}


@pytest.mark.fault(
    Kind.WORLD,
    "an exact run is killed on 3 ranks, then on 2, and goes on on 4",
    by="SIGKILL of a rank; --resume auto",
    outcome="model and optimizer bit for bit those of an undisturbed run on 1 rank",
)
def test_killed_and_resumed_on_other_ranks_the_files_are_the_same(tmp_path: Path) -> None:
    """The whole run is on 1 rank of a machine with two threads to a rank; the other is on 3, then 2, then 4."""
    run(tmp_path, "whole", 1, env={"OMP_NUM_THREADS": "2"})
    run(tmp_path, "it", 3, env={"KILL": "2:12"}, expected=3)
    assert "resumed after update" in run(tmp_path, "it", 2, "--resume", "auto", env={"KILL": "0:22"}, expected=3)
    assert "resumed after update" in run(tmp_path, "it", 4, "--resume", "auto")
    assert state(tmp_path, "it") == state(tmp_path, "whole")


def test_without_exact_the_files_differ(tmp_path: Path) -> None:
    """So that the test above can fail."""
    plain = ("train.determinism=same-world", "train.virtual_ranks=null")
    for world in (1, 3):
        run(tmp_path, str(world), world, *plain)
    assert state(tmp_path, "1")["model.safetensors"] != state(tmp_path, "3")["model.safetensors"]


@pytest.mark.fault(
    Kind.REQUEST,
    "an exact run on more ranks than it has virtual ones",
    by="5 ranks for 4",
    outcome="refused with the worlds that it can have",
)
def test_more_ranks_than_virtual_ones_are_refused(tmp_path: Path) -> None:
    said = run(tmp_path, "it", 5, expected=2)
    assert "train.virtual_ranks: an exact run with 4 virtual ranks goes on 1 to 4 ranks, not on 5" in said


@pytest.mark.fault(
    Kind.REQUEST,
    "what the bits of an exact run follow from has changed at a resume",
    by="another micro-batch, bucket size, number of virtual ranks",
    outcome="refused with the difference",
)
@pytest.mark.parametrize("change", ["batch.micro=2", "parallel.bucket_mb=1", "train.virtual_ranks=8"])
def test_what_the_bits_follow_from_cannot_change(tmp_path: Path, change: str) -> None:
    run(tmp_path, "it", 1, env={"KILL": "0:30"}, expected=3)
    said = run(tmp_path, "it", 1, change, "--resume", "auto", expected=2)
    assert f"{change.partition('=')[0]}: the run was begun with" in said
