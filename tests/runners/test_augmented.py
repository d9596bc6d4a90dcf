"""Samples that are augmented at random as they are loaded: the same training however they are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runners.test_resume import IN_UPDATE_7, rows, run, state

pytestmark = pytest.mark.long
AUGMENTED = "task.entry=mortal.py:Augmented"
EXACT = ("train.determinism=exact", "train.virtual_ranks=3")
OF_WORLD = ("comm/", "batch/micro_steps", "batch/world_size", "train/gradient_noise_scale")


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_with_other_workers_the_run_is_the_same(tmp_path: Path, workers: int) -> None:
    run(tmp_path, "whole", AUGMENTED, "data.workers=1")
    killed = (AUGMENTED, f"data.workers={workers}")
    run(tmp_path, "it", *killed, env={"KILL": IN_UPDATE_7[2]}, expected=3)
    assert "resumed after update" in run(tmp_path, "it", *killed, "--resume", "auto")[0]
    assert rows(tmp_path, "it") == rows(tmp_path, "whole")
    assert state(tmp_path, "it") == state(tmp_path, "whole")


def test_exact_runs_are_the_same_on_any_ranks_and_workers(tmp_path: Path) -> None:
    """The run on 3 ranks is killed, and ends on 2 with other workers."""
    found = []
    for world, workers in ((1, 2), (2, 1), (3, 0)):
        run(tmp_path, str(world), AUGMENTED, *EXACT, f"launch.nproc_per_node={world}", f"data.workers={workers}")
        found.append(losses_and_state(tmp_path, str(world)))
    killed = (AUGMENTED, *EXACT, "launch.nproc_per_node=3")
    run(tmp_path, "it", *killed, env={"KILL": IN_UPDATE_7[3]}, expected=3)
    run(tmp_path, "it", AUGMENTED, *EXACT, "launch.nproc_per_node=2", "data.workers=2", "--resume", "auto")
    found.append(losses_and_state(tmp_path, "it"))
    assert all(one == found[0] for one in found)


def losses_and_state(runs: Path, run_id: str) -> tuple[object, object]:
    """What must not follow from the ranks."""
    kept = [{key: value for key, value in row.items() if not key.startswith(OF_WORLD)} for row in rows(runs, run_id)]
    files = state(runs, run_id)
    return kept, {name: files[name] for name in ("model.safetensors", "optimizer.safetensors")}
