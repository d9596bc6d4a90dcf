from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from tests.processes import launcher
from tests.tasks.mortal import Mortal

MORTAL = "tests/tasks/mortal.yaml"


def test_the_model_of_a_run_is_exported(tmp_path: Path) -> None:
    settings = ("train.updates=3", "checkpoint.every=2", "launch.nproc_per_node=1")
    assert launcher("run", MORTAL, *settings, "--runs", str(tmp_path), "--run-id", "it").returncode == 0
    done = launcher("export", str(tmp_path / "it"), "--to", str(tmp_path / "mine.safetensors"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'mine.safetensors'}: the model after update 3\n"
    model = Mortal().model()
    model.load_state_dict(load_file(tmp_path / "mine.safetensors"))
    assert not list(tmp_path.glob(".*"))


def test_what_holds_no_checkpoint_is_told(tmp_path: Path) -> None:
    done = launcher("export", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"launcher: {tmp_path}: this run has no checkpoint to export.\n"
