"""What a rank trained with lives until its process ends.

DDP that is cleared away after its process group joins a thread of gloo with Python's lock held, and that thread may
want the lock: now and then a run that was done hung at its end (torch 2.13).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import launcher

SCRIPT = """
import weakref

left = {{"a model"}}
weakref.finalize(left, print, "the model is gone").atexit = False
print("trained")
{end}
"""


def logs(run: Path) -> list[str]:
    return [path.read_text() for path in sorted((run / "logs").glob("rank_*.log"))]


def test_a_model_is_not_cleared_away_after_its_process_group(runs: Path) -> None:
    settings = ("task.entry=tiny.py:Mourned", "train.updates=2")
    done = launcher("run", "tests/tasks/tiny.yaml", "--runs", str(runs), "--run-id", "it", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(logs(runs / "it")) == 2
    assert not any("gone" in log for log in logs(runs / "it"))


@pytest.mark.parametrize("end", ["", "import sys; sys.exit(0)"])
def test_nor_what_a_script_has_left(runs: Path, tmp_path: Path, end: str) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.format(end=end))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "script: {path: train.py}\nbatch: {global: 4, micro: 2}\ntrain: {updates: 1}\n"
        "launch: {nproc_per_node: 2, device: cpu}\ntracking: {wandb: {mode: disabled}}\n"
    )
    done = launcher("run", str(recipe), "--runs", str(runs), "--run-id", "it")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ["trained" in log for log in logs(runs / "it")] == [True, True]
    assert not any("gone" in log for log in logs(runs / "it"))
