"""Runs in containers of a real Docker daemon, in the image that docker/Dockerfile makes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from launcher.launch.docker import Container, HostUser, docker_run
from launcher.plan.planner import make_plan
from launcher.plan.topology import Topology
from launcher.recipe.load import load_recipe
from launcher.recipe.task_code import batchnorm_uses
from launcher.rundir.layout import RunDirectory
from tests.docker.daemon import Daemon
from tests.docker.image import IMAGE
from tests.faults.test_secrets import CommandLines, holders
from tests.processes import ROOT, clean_environment, launcher

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
DIGITS = ROOT / "recipes" / "digits" / "recipe.yaml"
TWO = ("launch.nproc_per_node=2", "launch.device=cpu", "tracking.wandb.mode=offline")
ENDLESS = (*TWO, "train.epochs=100000", "schedule.name=constant", "eval.every=end")
CANARY = "c0ffee" * 6 + "c0de"  # as long as a key of W&B
# Writes its arguments down, and is Docker's own command otherwise.
RECORDING = '#!/bin/sh\nprintf "%s\\0" docker "$@" >> "$RECORD"\nexec {docker} "$@"\n'


@dataclass
class Contained:
    """A run in a container.

    Attributes:
        daemon: where.
        runs: the folder of the run.
    """

    daemon: Daemon
    runs: Path

    @property
    def path(self) -> Path:
        return self.runs / "it"

    @property
    def job(self) -> str:
        return (self.path / "docker" / "job_id").read_text().strip()

    def launcher(self, *arguments: str, **env: str) -> CompletedProcess[str]:
        environment = {**self.daemon.environment, "WANDB_MODE": "offline", **env}
        return launcher(*arguments, "--runs", str(self.runs), env=environment, timeout=900)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "launcher", *arguments, "--runs", str(self.runs)]
        env = clean_environment(**self.daemon.environment, WANDB_MODE="offline")
        return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, cwd=ROOT)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "status.json").read_text())
        return found

    def rows(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, [path.read_text()[-2000:] for path in self.path.glob("logs/*.log")]
            time.sleep(0.05)

    def is_preempted_with_a_checkpoint(self) -> int:
        """The update after which it was."""
        status = self.status()
        assert (status["state"], status["exit_code"]) == ("preempted", 75)
        assert (self.path / "checkpoints" / f"step_{status['update']:08d}").is_dir()
        return int(status["update"])


@pytest.fixture
def it(docker: Daemon, runs: Path) -> Contained:
    return Contained(docker, runs)


def test_two_processes_train_in_the_image(it: Contained, tmp_path: Path) -> None:
    programs, record = tmp_path / "programs", tmp_path / "record"
    programs.mkdir()
    (programs / "docker").write_text(RECORDING.format(docker="/usr/bin/docker"))
    (programs / "docker").chmod(0o755)
    run = ("run", str(DIGITS), *TWO, "train.epochs=3", "--in", "docker", IMAGE, "--run-id", "it")
    shown = it.launcher(*run, "--dry-run")
    assert not it.path.exists()
    done = it.launcher(*run, PATH=f"{programs}:{os.environ['PATH']}", RECORD=str(record))
    assert done.returncode == 0, done.stdout + done.stderr
    executed = record.read_text().split("\0")[:-1]
    assert shown.stdout.splitlines()[-1] == shlex.join(executed)  # what was shown is what was done
    assert (it.path / "docker" / "recipe.yaml").read_text().strip() in shown.stdout
    assert it.status()["state"] == "done"
    assert it.rows()[-1]["batch/world_size"] == 2
    assert it.launcher("run", str(DIGITS), *TWO, "train.epochs=3", "--run-id", "here").returncode == 0
    here = [json.loads(line) for line in (it.runs / "here" / "metrics.jsonl").read_text().splitlines()]
    for ours, theirs in zip(it.rows(), here, strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-4)
    assert it.daemon.docker("ps", "--all", "--quiet").stdout == ""
    again = it.launcher(*run)
    assert again.returncode == 2
    assert "holds a run already" in again.stderr


def test_the_files_are_those_of_the_user(it: Contained, tmp_path: Path) -> None:
    """Of a user whom the image does not know."""
    it.runs = tmp_path / "runs"
    (it.path / "docker").mkdir(parents=True)
    for folder in (it.runs, it.path, it.path / "docker"):
        os.chown(folder, 4242, 4343)
    recipe = load_recipe(DIGITS, [*TWO, "train.epochs=1"]).recipe
    plan = make_plan(recipe, Topology(nodes=1, nproc_per_node=2, device="cpu"), batchnorm_uses(recipe))
    job = docker_run(plan, RunDirectory(it.path), Container(IMAGE, DIGITS.parent, HostUser(4242, 4343, "some")), {})
    for path, text in job.files.items():
        path.write_text(text)
    it.daemon.docker(*job.argv[1:])
    assert it.status()["state"] == "done"
    for path in it.path.rglob("*"):
        if path != it.path / "docker" / "recipe.yaml":
            assert (path.lstat().st_uid, path.lstat().st_gid) == (4242, 4343), path


def test_a_signal_to_the_launcher_ends_it_with_a_checkpoint(it: Contained) -> None:
    run = ("run", str(DIGITS), *ENDLESS, "--in", "docker", IMAGE, "--run-id", "it")
    with it.start(*run) as process:
        it.wait(lambda: len(it.rows()) > 2)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "SIGTERM: ending at the next update" in said
    stopped = it.is_preempted_with_a_checkpoint()
    with it.start(*run, "--resume", "auto") as process:
        it.wait(lambda: len(it.rows()) > stopped + 2)
        process.kill()  # what it started ends all the same
    it.wait(lambda: it.status()["state"] == "preempted")
    assert it.is_preempted_with_a_checkpoint() > stopped
    it.wait(lambda: it.daemon.docker("ps", "--all", "--quiet").stdout == "")


def test_a_container_that_is_stopped_ends_with_a_checkpoint(it: Contained) -> None:
    submit = ("submit", str(DIGITS), *ENDLESS, f"launch.docker.image={IMAGE}", "--to", "docker", "--run-id", "it")
    done = it.launcher(*submit)
    assert done.returncode == 0, done.stderr
    assert f"job: {it.job} (launcher status {it.job}" in done.stdout
    again = it.launcher(*submit)
    assert (again.returncode, f"has job {it.job} already" in again.stderr) == (73, True)
    it.wait(lambda: len(it.rows()) > 2)
    assert f"job: {it.job}, running" in it.launcher("status", it.job).stdout
    assert it.daemon.docker("exec", it.job, "python3", "-m", "launcher.rundir.health").stdout == "\n"
    first = it.job
    it.daemon.docker("stop", it.job)
    assert it.daemon.docker("inspect", "--format={{.State.ExitCode}}", it.job).stdout == "75\n"
    stopped = it.is_preempted_with_a_checkpoint()
    assert it.launcher("status", "it").stdout.splitlines()[1:] == [
        f"state: preempted after update {stopped}, {it.status()['samples_seen']:,} samples",
        f"job: {it.job}, exited, exit code 75",
    ]
    assert it.launcher(*submit).returncode == 2
    assert it.launcher(*submit, "--resume", "auto").returncode == 0
    assert it.job != first
    it.wait(lambda: len(it.rows()) > stopped + 2)
    with it.start("logs", "-f", "it") as following:
        ended = it.launcher("cancel", "it")
        said, _ = following.communicate(timeout=60)
    assert following.returncode == 0
    assert f"resumed after update {stopped}" in said
    assert "preempted: " in said
    assert f"job: {it.job}, exited, exit code 75" in ended.stdout
    assert it.is_preempted_with_a_checkpoint() > stopped
    it.daemon.docker("rm", it.job)
    assert f"job: {it.job}, which Docker knows no more" in it.launcher("status", "it").stdout


def test_a_secret_travels_by_the_environment_alone(it: Contained, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.py").write_text(
        "import os\nprint('keys', os.environ['WANDB_API_KEY'][:6], os.environ['MINE'][:6])\n"
    )
    recipe = code / "recipe.yaml"
    recipe.write_text(
        "script: {path: train.py}\nbatch: {global: 4, micro: 4}\ntrain: {updates: 1}\n"
        "launch: {device: cpu, docker: {env: [MINE]}}\n"
    )
    it.runs = tmp_path / "runs"
    run = ("run", str(recipe), "--in", "docker", IMAGE, "--run-id", "it")
    looking = CommandLines()
    looking.start()
    done = it.launcher(*run, WANDB_API_KEY=CANARY, MINE=CANARY)
    shown = it.launcher(*run, "--dry-run", WANDB_API_KEY=CANARY, MINE=CANARY)
    looking.over.set()
    looking.join()
    assert done.returncode == 0, done.stderr
    assert "keys c0ffee c0ffee" in (it.path / "logs" / "rank_0.log").read_text()
    assert "--env=MINE --env=" in shown.stdout
    assert CANARY not in done.stdout + done.stderr + shown.stdout
    assert (holders(it.runs), looking.seen) == ([], set())


def test_what_docker_refuses_leaves_nothing(it: Contained) -> None:
    for command in (("run", "--in", "docker", "no/such"), ("submit", "--to", "docker", "launch.docker.image=no/such")):
        done = it.launcher(command[0], str(DIGITS), "launch.device=cpu", *command[1:], "--run-id", "it")
        assert done.returncode == 2
        assert "no/such" in done.stderr
        assert "Traceback" not in done.stderr
        assert not it.path.exists()


def test_the_image_is_what_it_should_be(docker: Daemon) -> None:
    (config,) = json.loads(docker.docker("image", "inspect", "--format=[{{json .Config}}]", IMAGE).stdout)
    assert config["User"] == "1000"
    assert config["Labels"]["org.opencontainers.image.title"] == "launcher"
    assert config["Healthcheck"]["Test"] == ["CMD", "python3", "-m", "launcher.rundir.health"]
    wheels = ("find", "/opt", "/runs", "/home", "-name", "*.whl")
    assert docker.docker("run", "--rm", f"--entrypoint={wheels[0]}", IMAGE, *wheels[1:]).stdout == ""
    said = docker.docker("run", "--rm", IMAGE, "plan", "--help").stdout
    assert "RECIPE" in said
