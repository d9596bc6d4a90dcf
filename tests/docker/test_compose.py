"""docker/compose.yaml: two containers that meet over a network and train one run."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docker.daemon import Daemon
from tests.docker.image import IMAGE
from tests.processes import ROOT
from tests.wandb_files import read_offline_run

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
COMPOSE = ["docker-compose", "--project-name", "test", "--file", str(ROOT / "docker" / "compose.yaml")]
CANARY = "c0ffee" * 6 + "c0de"


@contextmanager
def composed(daemon: Daemon, **env: str) -> Iterator[dict[str, str]]:
    """The environment in which docker/compose.yaml is used; afterwards nothing of it is left."""
    environment = {**os.environ, **daemon.environment, "IMAGE": IMAGE, **env}
    try:
        yield environment
    finally:
        subprocess.run([*COMPOSE, "down", "--volumes"], env=environment, check=False, capture_output=True)


def test_the_file_is_clean(daemon: Daemon) -> None:
    with composed(daemon) as env:
        done = subprocess.run([*COMPOSE, "config", "--quiet"], env=env, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_two_containers_train_one_run(docker: Daemon, tmp_path: Path) -> None:
    key, runs = tmp_path / "key", tmp_path / "runs"
    key.write_text(CANARY)
    runs.mkdir()
    user = f"{os.getuid()}:{os.getgid()}"
    settings = {"RUNS": str(runs), "LAUNCHER_USER": user, "WANDB_API_KEY_FILE": str(key), "WANDB_MODE": "offline"}
    with composed(docker, **settings) as env:
        done = subprocess.run([*COMPOSE, "up", "--no-color"], env=env, check=False, capture_output=True, text=True)
        described = docker.docker("ps", "--all", "--quiet").stdout.split()
        (first, second) = json.loads(docker.docker("inspect", *described).stdout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (first["State"]["ExitCode"], second["State"]["ExitCode"]) == (0, 0), done.stdout[-3000:]
    assert CANARY not in json.dumps([first, second]) + done.stdout + done.stderr  # it is in the secret's file alone
    run = runs / "compose"
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["batch/world_size"] == 2
    logged = read_offline_run(run)  # one run of W&B, and not one for each container
    assert [row["train/global_step"] for row in logged.rows()] == [row["train/global_step"] for row in rows]
