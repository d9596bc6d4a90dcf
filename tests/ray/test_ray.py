"""Runs whose ranks a real Ray places, and jobs of it: trained, killed, cancelled, gone on with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.runs import RECIPE, Run, sample_of
from tests.faults.table import Kind
from tests.faults.test_secrets import CANARY, holders
from tests.processes import ROOT, clean_environment, launcher, processes_with, wait_until
from tests.ray.cluster import RayCluster

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
DIGITS = str(ROOT / "recipes/digits/recipe.yaml")
ON_RAY = ("launch.method=ray", "launch.nproc_per_node=2", "launch.device=cpu")
_PATIENCE = 600  # seconds: Ray starts many processes


def losses(run: Path) -> list[float]:
    return [json.loads(line)["train/loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_workers_train_to_the_losses_of_two_ranks(cluster: RayCluster, tmp_path: Path) -> None:
    keys = ["train.epochs=null", "train.updates=24", "--runs", str(tmp_path)]
    here = launcher("run", DIGITS, "launch.nproc_per_node=2", "launch.device=cpu", *keys, "--run-id", "here")
    on_ray = launcher("run", DIGITS, *ON_RAY, *keys, "--run-id", "ray", env=cluster.environment, timeout=_PATIENCE)
    assert (here.returncode, on_ray.returncode) == (0, 0), on_ray.stderr
    assert len(losses(tmp_path / "here")) == 24
    assert losses(tmp_path / "ray") == pytest.approx(losses(tmp_path / "here"), abs=1e-4)
    plan = json.loads((tmp_path / "ray" / "plan.json").read_text())
    assert plan["topology"] == {"nodes": 1, "nproc_per_node": 2, "device": "cpu"}
    assert (tmp_path / "ray" / "logs" / "rank_1.log").exists()


@pytest.mark.fault(
    Kind.SECRET, "secrets in the environment, on Ray", by="WANDB_API_KEY and a *_TOKEN of a run whose ranks Ray places",
    outcome="the ranks have them; in no file of Ray's or of the run, and on no page of Ray's dashboard",
)  # fmt: skip
def test_nothing_of_rays_shows_a_secret(cluster: RayCluster, tmp_path: Path) -> None:
    """While the run goes on too, when its workers are listed."""
    env = {**cluster.environment, "WANDB_API_KEY": CANARY, "MY_TOKEN": CANARY, "WANDB_MODE": "offline"}
    runs = ["--runs", str(tmp_path), "--run-id", "it"]
    keys = ["train.epochs=null", "train.updates=100000", "schedule.name=constant", "checkpoint.every=10", *runs]
    command = [sys.executable, "-m", "launcher", "run", DIGITS, *ON_RAY, *keys]
    with subprocess.Popen(command, env=clean_environment(**env), cwd=ROOT) as run:
        try:
            wait_until(lambda: (tmp_path / "it" / "checkpoints" / "step_00000010").exists(), _PATIENCE)
            of_run = processes_with(f"LAUNCHER_RUN_DIR={tmp_path / 'it'}")
            environments = [Path(f"/proc/{process}/environ").read_text() for process in of_run]
            while_it_goes_on = cluster.holders(CANARY)
        finally:
            run.terminate()
            code = run.wait(_PATIENCE)
    of_ranks = [found for found in environments if "\0RANK=" in found]  # and of what they have started
    assert len(of_ranks) >= 2
    assert all(CANARY in found for found in of_ranks)
    assert (while_it_goes_on, code) == ([], 75)
    assert cluster.holders(CANARY) == []
    assert holders(tmp_path) == []


def test_a_rank_that_dies_is_started_again_from_the_checkpoint(cluster: RayCluster, tmp_path: Path) -> None:
    undisturbed, disturbed = Run(tmp_path, "undisturbed"), Run(tmp_path, "disturbed")
    assert undisturbed.launch().returncode == 0
    faults = disturbed.faults({sample_of(update=14, rank=1, micro_step=2): "is_killed"})
    done = disturbed.launch(*ON_RAY, *faults, env=cluster.environment, timeout=_PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "Rank 1 was killed by SIGKILL" in done.stderr
    assert re.search(r"going on after update \d+ ", done.stdout)
    assert disturbed.rows() == undisturbed.rows()
    assert disturbed.state() == undisturbed.state()


def test_a_job_is_shown_followed_cancelled_and_gone_on_with(cluster: RayCluster, tmp_path: Path) -> None:
    env, runs, run = cluster.environment, ["--runs", str(tmp_path)], tmp_path / "it"
    keys = ["launch.nproc_per_node=2", "launch.device=cpu", "train.epochs=null", "checkpoint.every=10"]
    keys.append(f"launch.ray.python={sys.executable}")
    submit = ["submit", DIGITS, *keys, "--to", "ray", *runs, "--run-id", "it"]
    done = launcher(*submit, "train.updates=100000", env=env, timeout=_PATIENCE)
    assert done.returncode == 0, done.stderr
    (job,) = re.findall(r"^job: (raysubmit_\w+) ", done.stdout, re.MULTILINE)
    wait_until(lambda: (run / "checkpoints" / "step_00000010").exists(), _PATIENCE)
    status = launcher("status", job, *runs, env=env).stdout
    assert f"job: {job}, RUNNING" in status
    assert "state: running after update" in status
    again = launcher(*submit, "train.updates=100000", "--resume", "auto", env=env)
    assert again.returncode == 73
    assert f"has job {job} already, which is RUNNING" in again.stderr
    cancelled = launcher("cancel", "it", *runs, env=env, timeout=_PATIENCE)
    assert cancelled.returncode == 0, cancelled.stderr
    assert f"job: {job}, STOPPED" in cancelled.stdout
    update = json.loads((run / "status.json").read_text())["update"]
    assert f"state: preempted after update {update:,}" in cancelled.stdout
    assert (run / "checkpoints" / f"step_{update:08d}").exists()
    printed = launcher("logs", job, *runs, env=env).stdout
    assert "digits: 2 ranks on cpu, effective global batch 256" in printed
    assert "SIGTERM: ending at the next update" in printed


def test_without_a_cluster_the_cure_is_told(cluster: RayCluster, tmp_path: Path) -> None:
    """With the cluster, since Ray must be installed; it is told to look elsewhere."""
    nowhere = {**cluster.environment, "RAY_ADDRESS": "127.0.0.1:1"}
    run = launcher("run", RECIPE, *ON_RAY, "--runs", str(tmp_path), "--run-id", "it", env=nowhere, timeout=_PATIENCE)
    assert run.returncode == 2
    assert "No Ray cluster is running here. Begin one by ray start --head, or set RAY_ADDRESS." in run.stderr
