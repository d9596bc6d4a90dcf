"""Runs on Ray, as far as no Ray is needed: what is rendered, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.cli import submit_ray
from launcher.errors import RequestError
from launcher.launch.build import build_launch
from launcher.recipe.load import load_recipe
from launcher.rundir.layout import RunDirectory
from launcher.runners import jobs, ray
from launcher.worker.ray_rank import RankOrder
from tests.processes import ROOT, launcher

DIGITS = ROOT / "recipes" / "digits" / "recipe.yaml"
CANARY = "wandb-canary-0123456789"


def test_the_agent_is_told_how_many_workers_and_what_each_gets() -> None:
    request = submit_ray.read(DIGITS, ["launch.nodes=2", "launch.nproc_per_node=4", "data.workers=2"], Path("runs"))
    spec = build_launch(request.plan, RunDirectory(Path("/runs/it")), request.machine, {}, python="python")
    assert spec.argv == (
        *("python", "-m", "launcher.worker.agent", "ray"),
        *("--num-workers=8", "--cpus-per-worker=3", "--gpus-per-worker=1"),
    )
    assert spec.env["OMP_NUM_THREADS"] == "3"


def test_the_job_runs_what_was_planned(tmp_path: Path) -> None:
    keys = ["launch.nproc_per_node=2", "launch.device=cpu", "launch.grace=90", "launch.ray.address=http://head:8265"]
    request = submit_ray.read(DIGITS, keys, tmp_path)
    job = submit_ray.job(request, RunDirectory(tmp_path / "it"))
    recipe = tmp_path / "it" / "ray" / "recipe.yaml"
    *before, number, environment, dashes = job.argv[: job.argv.index("--") + 1]
    assert before == ["ray", "job", "submit", "--no-wait", "--address=http://head:8265"]
    assert ray.Job(number.removeprefix("--submission-id=")).number.startswith("raysubmit_")
    assert json.loads(environment.removeprefix("--runtime-env-json=")) == {
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
    }
    command = job.argv[job.argv.index(dashes) + 1 :]
    assert command == (
        *(
            "python3",
            "-m",
            "launcher",
            "run",
            str(recipe),
            "--runs",
            str(tmp_path),
            "--run-id",
            "it",
            "--resume",
            "auto",
        ),
    )
    recipe.parent.mkdir(parents=True)
    recipe.write_text(job.files[recipe])
    launch = load_recipe(recipe).recipe.launch
    assert (launch.method, launch.nproc_per_node, launch.device) == ("ray", 2, "cpu")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ([], "launch.nproc_per_node: auto is one rank for each GPU, and how many GPUs the machines of a Ray cluster"),
        (["launch.nproc_per_node=2", "launch.nodes=1:4"], "launch.nodes: ray starts a fixed number of machines"),
        (
            ["launch.nproc_per_node=2", "parallel.engine=fsdp", "parallel.fsdp.replicas=nodes"],
            "parallel.fsdp.replicas: needs as many ranks on each machine, and launch.method=ray leaves to Ray where",
        ),
        (
            ["launch.nproc_per_node=2", "launch.ray.address=http://me:secret@head:8265"],
            "launch.ray.address",
        ),
    ],
)
def test_what_ray_cannot_run_is_refused(keys: list[str], sentence: str) -> None:
    with pytest.raises(RequestError) as refused:
        submit_ray.read(DIGITS, keys, Path("runs"))
    assert sentence in str(refused.value)


def test_the_python_of_the_cluster_is_started() -> None:
    keys = ["launch.nproc_per_node=2", "launch.device=cpu", "launch.ray.python=/opt/env/bin/python"]
    job = submit_ray.job(submit_ray.read(DIGITS, keys, Path("runs")), RunDirectory(Path("/runs/it")))
    assert job.argv[job.argv.index("--") + 1 :][:3] == ("/opt/env/bin/python", "-m", "launcher")


def test_an_order_shows_nothing_of_the_environment() -> None:
    order = RankOrder("/runs/it", (), {"WANDB_API_KEY": CANARY}, "/", "node")
    assert CANARY not in repr(order) + str({"order": order})


def test_no_secret_is_rendered(tmp_path: Path) -> None:
    keys = ["launch.nproc_per_node=2", "launch.device=cpu", "--runs", str(tmp_path), "--run-id", "it", "--dry-run"]
    done = launcher("submit", str(DIGITS), "--to", "ray", *keys, env={"WANDB_API_KEY": CANARY})
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_last_job_of_a_run_is_the_one_that_is_asked_for(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for path, text in ((run.slurm_job, "4711\n"), (run.ray_job, "raysubmit_a1B2 http://head:8265\n")):
        path.parent.mkdir()
        path.write_text(text)
    assert jobs.find_job(run) == ray.Job("raysubmit_a1B2", "http://head:8265")
