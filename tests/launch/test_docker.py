"""Runs in containers, as far as no Docker is needed: what is rendered, what is refused, whether its files are clean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from launcher.launch.docker import Container, HostUser, docker_run
from launcher.plan.planner import make_plan
from launcher.plan.topology import Machine, choose_topology
from launcher.recipe.load import load_recipe
from launcher.recipe.task_code import batchnorm_uses
from launcher.rundir.health import silent_ranks
from launcher.rundir.layout import RunDirectory
from tests.processes import ROOT, launcher

DIGITS = ROOT / "recipes" / "digits" / "recipe.yaml"


def words_of(*overrides: str, detached: bool = False, resume: bool = False, **inherited: str) -> list[str]:
    """The command that starts a container for the digits."""
    recipe = load_recipe(DIGITS, overrides).recipe
    plan = make_plan(recipe, choose_topology(recipe.launch, Machine(cpus=8, gpus=2)), batchnorm_uses(recipe))
    container = Container("image:1", DIGITS.parent, HostUser(12, 34, "me"), resume, detached=detached)
    return list(docker_run(plan, RunDirectory(Path("/runs/it")), container, inherited).argv)


def test_a_container_on_cpus() -> None:
    code = DIGITS.parent
    assert words_of("launch.device=cpu", WANDB_API_KEY="secret", HOME="/home/me") == [
        *("docker", "run", "--rm", "--init", "--label=launcher.run=/runs/it", "--user=12:34", "--shm-size=8g"),
        *("--stop-signal=SIGTERM", "--stop-timeout=180", "--workdir=/"),
        f"--mount=type=bind,source={code},target={code},readonly",
        "--mount=type=bind,source=/runs,target=/runs",
        *("--env=HOME=/tmp", "--env=USER=me", "--env=WANDB_API_KEY", "--entrypoint=python3", "image:1"),
        *("-m", "launcher", "run", "/runs/it/docker/recipe.yaml", "--runs", "/runs", "--run-id", "it"),
    ]


def test_a_container_with_all_that_there_is() -> None:
    words = words_of(
        "launch.docker.shm_size=64g",
        "launch.docker.network=host",
        "launch.docker.mounts=[/data, /scratch/models:/models]",
        "launch.docker.env=[MINE]",
        "launch.docker.stop_timeout=900",
        'launch.docker.options={memory: 64g, cpuset-cpus: "0-7", privileged: false, read-only: true}',
        detached=True,
        resume=True,
        NCCL_DEBUG="INFO",
    )
    for word in (
        *("--detach", "--gpus=all", "--ulimit=memlock=-1", "--shm-size=64g", "--network=host", "--stop-timeout=900"),
        *("--mount=type=bind,source=/data,target=/data", "--mount=type=bind,source=/scratch/models,target=/models"),
        *("--memory=64g", "--cpuset-cpus=0-7", "--read-only", "--env=MINE", "--env=NCCL_DEBUG"),
    ):
        assert word in words
    assert not {"--rm", "--privileged"} & set(words)
    assert words[-2:] == ["--resume", "auto"]


def test_a_run_has_time_to_save() -> None:
    assert "--stop-timeout=1120" in words_of("launch.grace=1000")


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "several machines": (
        ("launch.nodes=2",),
        "launch.nodes: a container runs the ranks of one machine. Set launch.nodes=1, or see docker/compose.yaml.",
    ),
    "Ray": (
        ("launch.method=ray", "launch.nproc_per_node=2"),
        "launch.method: a container has no Ray cluster to place the ranks. Set launch.method=torchrun, or submit",
    ),
    "a variable that is not there": (
        ("launch.docker.env=[NOT_SET_HERE]",),
        "launch.docker.env: NOT_SET_HERE is not set in your environment. Set it, or do without it.",
    ),
    "too short": (
        ("launch.docker.stop_timeout=60",),
        "launch.docker.stop_timeout: 60 seconds are no more than launch.grace",
    ),
    "an option of its own": (
        ("launch.docker.options={volume: /data}",),
        "launch.docker.options.volume: the launcher writes this option itself. Set launch.docker.mounts.",
    ),
    "a secret": (
        ("launch.docker.options={label: MY_PASSWORD=hi}",),
        "launch.docker.options.label: MY_PASSWORD is a secret, and the command is shown.",
    ),
    "a short name": (
        ("launch.docker.options={e: A=b}",),
        "launch.docker.options.e: is no long name of an option of docker run.",
    ),
    "a value": (
        ("launch.docker.env=[MINE=1]",),
        "launch.docker.env: entry 1 must be the name of a variable, without its value, not 'MINE=1'.",
    ),
    "no folder": (
        ("launch.docker.mounts=[data]",),
        "launch.docker.mounts: 'data' is no folder to mount. Write /folder or /folder:/in/container.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_recipe_that_cannot_run_there_is_refused(name: str, tmp_path: Path) -> None:
    settings, said = REFUSED[name]
    arguments = ("run", str(DIGITS), "launch.device=cpu", *settings, "--in", "docker", "image")
    done = launcher(*arguments, "--runs", str(tmp_path / "runs"))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_every_image_has_is_not_replaced() -> None:
    done = launcher("run", str(DIGITS), "launch.device=cpu", "--in", "docker", "image", "--runs", "/tmp", "--dry-run")
    assert (done.returncode, "/tmp: is mounted in the container, which has such a folder" in done.stderr) == (2, True)


@pytest.mark.parametrize("command", [("run", "--in", "docker", "image"), ("submit", "--to", "docker")])
def test_without_docker_one_sentence_says_so(command: tuple[str, ...], tmp_path: Path) -> None:
    image = ("launch.docker.image=image",) if command[0] == "submit" else ()
    arguments = (command[0], str(DIGITS), "launch.device=cpu", *image, *command[1:], "--run-id", "it")
    done = launcher(*arguments, "--runs", str(tmp_path), env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (2, "launcher: Docker is not installed here: there is no docker.\n")
    assert not (tmp_path / "it").exists()


@pytest.mark.parametrize("resumes", [False, True])
def test_an_image_without_a_launcher_that_runs_is_one_sentence(tmp_path: Path, resumes: bool) -> None:
    """A program in Docker's place that does what such an image does: the tests of containers have a real one."""
    docker, run = tmp_path / "bin" / "docker", tmp_path / "runs" / "it"
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho '/usr/bin/python3: No module named launcher' >&2\nexit 1\n")
    docker.chmod(0o755)
    if resumes:
        run.mkdir(parents=True)
        (run / "status.json").write_text("{}")
    before = sorted(run.iterdir()) if resumes else None
    arguments = ("run", str(DIGITS), "launch.device=cpu", "--in", "docker", "image:1", "--resume", "auto")
    env = {"PATH": f"{docker.parent}:{os.environ['PATH']}"}
    done = launcher(*arguments, "--runs", str(run.parent), "--run-id", "it", env=env)
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        [
            "/usr/bin/python3: No module named launcher",
            "launcher: image:1 has no launcher that runs: what it says to that stands above.",
        ],
    )
    assert (sorted(run.iterdir()) if run.exists() else None) == before


def test_a_key_that_cannot_be_read_is_one_sentence() -> None:
    """By another user than root, who can read all."""
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        Path(folder).chmod(0o755)
        key.write_text("canary")
        key.chmod(0)
        script = (ROOT / "docker" / "entrypoint.sh").read_text().replace("/run/secrets/wandb_api_key", str(key))
        other = 12345 if os.geteuid() == 0 else None
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=False, cwd="/", user=other, group=other
        )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "cannot be read by user" in done.stderr
    assert "Set LAUNCHER_USER to the file's owner, or let others read it." in done.stderr


def test_the_second_container_begins_when_the_name_of_the_first_is_known() -> None:
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    assert services["node1"]["depends_on"] == ["node0"]


def test_the_dockerfile_is_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [str(hadolint), str(ROOT / "docker" / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_image_needs_is_what_the_project_says(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["numpy>=1", "torch>=2"]\n[project.optional-dependencies]\nmore = ["rich"]\n'
    )
    script = str(ROOT / "docker" / "requirements.py")
    for extras, said in (("", "numpy>=1\n"), ("more", "numpy>=1\nrich\n")):
        command = [sys.executable, script, str(tmp_path / "pyproject.toml"), extras]
        if sys.version_info >= (3, 11):
            assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == said


def test_a_rank_that_tells_nothing_is_unhealthy(tmp_path: Path) -> None:
    run, process = RunDirectory(tmp_path / "it"), tmp_path / "proc" / "12"
    run.heartbeats.mkdir(parents=True)
    process.mkdir(parents=True)
    (process / "environ").write_text(f"A=b\0RANK=1\0LAUNCHER_RUN_DIR={run.path}\0")
    beat = run.heartbeats / "rank_1"
    assert silent_ranks(tmp_path / "proc", time.time()) == []  # it has not begun
    beat.write_text(json.dumps({}))
    assert silent_ranks(tmp_path / "proc", time.time()) == []
    os.utime(beat, (1000, 1000))
    assert silent_ranks(tmp_path / "proc", 1200) == [f"rank 1 of {run.path} has been silent for 200 seconds"]
