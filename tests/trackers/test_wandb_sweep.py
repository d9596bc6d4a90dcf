"""A sweep that W&B steers: its file, the command that its agent forms of it, and the run that comes of that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launcher.recipe.load import load_recipe
from launcher.rundir.layout import RunDirectory
from launcher.trackers.wandb_id import wandb_id_of
from tests.processes import ROOT, clean_environment
from tests.wandb_server import WandbServer

SWEEP = ROOT / "recipes" / "digits" / "sweep.yaml"
KEY = "0123456789" * 4


def test_an_agent_of_wandb_runs_it(runs: Path) -> None:
    """The agent's own code makes the command from the file, and the run is the one that the server waits for."""
    sweep = yaml.safe_load(SWEEP.read_text())
    assert sweep["command"][:3] == ["launcher", "run", "recipes/digits/recipe.yaml"]
    sweep["command"][3:] = [*sweep["command"][3:], "train.updates=2", "train.epochs=null", "launch.device=cpu"]
    sweep["command"] += ["--runs", str(runs / "runs")]
    (runs / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    chosen = ["optimizer.lr=0.0032", "batch.global=96", "train.epochs=10"]
    with WandbServer() as server:
        environment = clean_environment(
            WANDB_MODE="online",
            WANDB_BASE_URL=server.url,
            WANDB_API_KEY=KEY,
            WANDB_DIR=str(runs),
            HOME=str(runs),
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        )
        done = subprocess.run(
            [sys.executable, "-m", "tests.trackers.agent_run", str(runs / "sweep.yaml"), "from-server", *chosen],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (run,) = server.runs.values()
    assert (run.id, run.sweep, run.project) == ("from-server", "sweep", "digits")
    assert [row["batch/global_samples"] for row in run.rows()] == [96, 96]
    assert (run.config["optimizer"]["lr"], run.config["batch"]["global"]) == (0.0032, 96)
    assert run.config["optimizer.lr"] == 0.0032  # by which W&B's own charts of a sweep know it


def test_what_a_sweep_sets_are_keys_of_the_recipe() -> None:
    sweep = yaml.safe_load(SWEEP.read_text())
    given = sweep["parameters"].items()
    first = [f"{key}={one.get('value') or one.get('min') or one['values'][0]}" for key, one in given]
    load_recipe(ROOT / "recipes" / "digits" / "recipe.yaml", first)


@pytest.mark.parametrize("settings", [{"WANDB_RUN_ID": "given"}, {"WANDB_RUN_ID": "a b", "WANDB_SWEEP_ID": "s"}])
def test_an_id_is_taken_from_the_agent_of_a_sweep_alone(settings: dict[str, str], tmp_path: Path) -> None:
    assert wandb_id_of(RunDirectory(tmp_path), settings).startswith(tmp_path.name[:20])
