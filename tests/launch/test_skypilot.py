"""Tasks of SkyPilot: what is rendered, what is refused, and that SkyPilot itself reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from launcher.cli import submit_skypilot
from launcher.errors import RequestError
from launcher.launch.submission import Submission
from launcher.rundir.layout import RunDirectory
from tests.processes import ROOT, launcher
from tests.recipes.golden import GOLDEN, SKY_JOBS, sky_text

DIGITS = ROOT / "recipes" / "digits" / "recipe.yaml"
CPU = ("launch.device=cpu", "launch.skypilot.setup=pip install launcher")
GPUS = ("launch.nproc_per_node=8", "launch.skypilot.accelerator=H100", "launch.skypilot.setup=true")
CANARY = "wandb-canary-0123456789"
_PATIENCE = 900  # seconds, for some 460 MB
# SkyPilot's own reading of a task file: its schema, its resources, its storage.
READ = """
import json, sys
import sky, yaml
for path in sys.argv[1:]:
    config = yaml.safe_load(open(path))
    values = [(name, "value") for name in config.get("secrets", {})]  # as by --secret
    task = sky.Task.from_yaml_config(config, secrets_overrides=values)
    print(json.dumps([task.name, task.num_nodes, sorted(task.secrets), [str(one) for one in task.resources]]))
    try:
        sky.Task.from_yaml_config({**yaml.safe_load(open(path)), "resourses": {}})
    except ValueError as error:
        assert "resourses" in str(error)
    else:
        raise AssertionError("a key that it does not know was read")
"""


def job_of(keys: Sequence[str], run: Path = Path("/runs/it")) -> Submission:
    request = submit_skypilot.read(DIGITS, keys, run.parent)
    return submit_skypilot.job(request, RunDirectory(run))


@pytest.mark.parametrize("name", SKY_JOBS)
def test_task_files(name: str) -> None:
    """If it changed on purpose: python -m tests.recipes.golden, and read the difference before you commit it."""
    assert sky_text(name) == (GOLDEN / name).read_text()


def test_secrets_go_by_name_alone(tmp_path: Path) -> None:
    keys = [*CPU, "launch.skypilot.secrets=[WANDB_API_KEY]", "--runs", str(tmp_path), "--run-id", "it", "--dry-run"]
    done = launcher("submit", str(DIGITS), "--to", "skypilot", *keys, env={"WANDB_API_KEY": CANARY})
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stdout
    assert "\nsecrets:\n  WANDB_API_KEY: null\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("sky jobs launch --yes --detach-run --secret WANDB_API_KEY ")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_an_accelerate_config_goes_along(tmp_path: Path) -> None:
    config = tmp_path / "cluster.yml"
    config.write_text("mixed_precision: 'no'\n")
    keys = (*CPU, "launch.method=accelerate", f"launch.accelerate.config_file={config}")
    task = yaml.safe_load(job_of(keys).files[Path("/runs/it/skypilot/task.yaml")])
    assert {str(DIGITS.parent), str(tmp_path)} <= set(task["file_mounts"])


def test_the_command_of_a_machine_is_one_that_the_launcher_has(tmp_path: Path) -> None:
    task = yaml.safe_load(job_of(CPU).files[Path("/runs/it/skypilot/task.yaml")])
    command = task["run"].replace("/launcher/recipe.yaml", str(DIGITS)).replace("/launcher/runs", str(tmp_path))
    command = command.replace("exec python3", sys.executable).rstrip("\n") + " launch.device=cpu --dry-run"
    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "launcher.worker.agent torchrun" in done.stdout


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ((), "launch.skypilot.accelerator: which GPUs the machines are to have is not said. Write for example"),
        ((), "launch.skypilot.setup: nothing installs the launcher on the machines. Write the commands that do"),
        (
            ("launch.method=ray", "launch.nproc_per_node=2", *CPU),
            "launch.method: the machines of a cloud have no Ray cluster to place the ranks. Set launch.method=torchrun",
        ),
        ((*CPU, "launch.skypilot.secrets=[NOT_SET]"), "launch.skypilot.secrets: NOT_SET is not set in your environ"),
        (("launch.nodes=1:4",), "launch.nodes: a task of SkyPilot has a fixed number of machines, not 1:4. Set"),
        (
            ("launch.skypilot.accelerator=H100", "launch.skypilot.setup=true"),
            "launch.nproc_per_node: auto is one rank for each GPU, and how many GPUs the machines of a cloud have",
        ),
        ((*GPUS, "launch.nodes=2"), "launch.skypilot.runs: several machines share the folder of runs, and no volume"),
        (
            (*GPUS, "launch.nodes=2", "launch.skypilot.runs=s3://mine"),
            "launch.skypilot.runs: s3://mine is a bucket, which has no locks, and several machines share",
        ),
        ((*GPUS, "launch.skypilot.use_spot=true"), "launch.skypilot.use_spot: a machine that is taken away takes"),
        ((*GPUS, "launch.skypilot.secrets=[A=b]"), "launch.skypilot.secrets"),
    ],
)
def test_what_cannot_run_there_is_refused(keys: Sequence[str], sentence: str) -> None:
    with pytest.raises(RequestError) as refused:
        job_of(keys)
    assert sentence in str(refused.value)


def test_sky_is_called_with_what_the_dry_run_prints(tmp_path: Path) -> None:
    """A program in SkyPilot's place: no cloud is at hand."""
    sky = tmp_path / "bin" / "sky"
    sky.parent.mkdir()
    sky.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/told\n[ -z "$REFUSE" ]\n')
    sky.chmod(0o755)
    submit = ["submit", str(DIGITS), "--to", "skypilot", *CPU, "--runs", str(tmp_path / "runs"), "--run-id", "it"]
    env = {"PATH": f"{sky.parent}:{os.environ['PATH']}"}
    refused = launcher(*submit, env={**env, "REFUSE": "1"})
    assert (refused.returncode, refused.stderr) == (2, "launcher: sky has not taken the job: exit code 1.\n")
    assert not (tmp_path / "runs" / "it").exists()
    secret = launcher(*submit, "launch.skypilot.secrets=[MY_TOKEN]", env=env)
    assert "launch.skypilot.secrets: MY_TOKEN is not set in your environment" in secret.stderr
    assert not (tmp_path / "runs" / "it").exists()
    done = launcher(*submit, env=env)
    assert done.returncode == 0, done.stderr
    task = tmp_path / "runs" / "it" / "skypilot" / "task.yaml"
    assert (tmp_path / "told").read_text().split() == ["jobs", "launch", "--yes", "--detach-run", str(task)]
    assert yaml.safe_load(task.read_text())["name"] == "it"
    (tmp_path / "told").unlink()
    again = launcher(*submit, env=env)
    assert (again.returncode, (tmp_path / "told").exists(), task.exists()) == (2, False, True)
    assert "was submitted already, and sky jobs queue says how it stands. Go on with it by --resume" in again.stderr
    assert launcher(*submit, "--resume", "auto", env=env).returncode == 0
    assert (tmp_path / "told").exists()
    runs = ["--runs", str(tmp_path / "runs")]
    for status in (launcher("status", "it", *runs), launcher("status", *runs)):
        assert status.stdout.splitlines()[1:] == [
            "state: its files are in the cluster: see the logs of its job",
            "job: it, SkyPilot: see sky jobs queue",
        ]
    for command, said in (("logs", "sky jobs logs --name it"), ("cancel", "sky jobs cancel --name it")):
        asked = launcher(command, "it", *runs)
        assert (asked.returncode, said in asked.stderr, len(asked.stderr.splitlines())) == (2, True, 1)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_skypilot_itself_reads_the_task_files(tmp_path: Path) -> None:
    """In an environment of its own: it wants older packages than ours."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "skypilot>=0.14"]
    try:
        done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        pytest.skip(f"skypilot could not be installed within {_PATIENCE} seconds")
    if done.returncode:
        pytest.skip(f"skypilot cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    paths = [tmp_path / name for name in SKY_JOBS]
    for path in paths:
        text = sky_text(path.name).rpartition("\n$ ")[0]
        path.write_text(text.replace("PROJECT", str(ROOT)).replace("/runs/id/skypilot/recipe.yaml", str(DIGITS)))
    env = {**os.environ, "HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    read = subprocess.run([python, "-c", READ, *paths], capture_output=True, text=True, check=False, env=env)
    assert read.returncode == 0, read.stderr[-3000:]
    told = [json.loads(line) for line in read.stdout.splitlines() if line.startswith("[")]
    assert [one[:3] for one in told] == [["id", 1, []], ["id", 4, ["HF_TOKEN", "WANDB_API_KEY"]], ["id", 1, []]]
    assert "H100" in told[1][3][0]
    assert "Spot" in told[2][3][0]
