"""`launcher doctor` on this machine: what it says, what it measures, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.processes import ROOT, launcher

MORTAL = str(ROOT / "tests" / "tasks" / "mortal.yaml")
KEY = "0123456789abcdef" * 3
TWO = ("launch.nproc_per_node=2", "launch.device=cpu")


def test_it_measures_what_a_network_costs_a_recipe(runs: Path) -> None:
    lock = runs / "extensions" / "fused" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (1000, 1000))
    env = {"TORCH_EXTENSIONS_DIR": str(lock.parent.parent), "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}
    command = ("doctor", "--recipe", MORTAL, *TWO, "--runs", str(runs / "runs"))
    done = launcher(*command, "--json", env=env)
    assert done.returncode == 3, done.stderr  # the lock
    found = json.loads(done.stdout)
    assert KEY not in done.stdout + done.stderr
    levels = {finding["name"]: finding["level"] for finding in found["findings"]}
    assert levels["extensions"] == "problem"
    assert {"Python", "torch", "import torch", "shared memory", "open files", "disk", "clock", "W&B"} <= set(levels)
    assert {name for name, level in levels.items() if level == "problem"} == {"extensions"}
    network = found["network"]
    parameters = 8 * 40 + 40 + 40 * 40 + 40 + 40 + 1
    assert (network["parameters"], network["bytes_per_update"]) == (parameters, 4 * parameters)
    assert (network["world_size"], network["accumulation"], network["micro_samples"]) == (2, 3, 4)
    assert network["latency"] > 0
    assert network["communication"] == network["message_seconds"]
    assert network["computing"] == pytest.approx(3 * network["micro_seconds"])
    assert network["balanced_accumulation"] == pytest.approx(network["communication"] / network["micro_seconds"])
    assert list((runs / "runs").iterdir()) == []  # what was measured leaves nothing


@pytest.mark.long
def test_one_rank_has_no_network(runs: Path) -> None:
    done = launcher(
        "doctor", "--recipe", MORTAL, "launch.nproc_per_node=1", "--runs", str(runs), env={"TORCH_EXTENSIONS_DIR": "/x"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "micro-step" in done.stdout
    assert "network         one rank: nothing crosses it" in done.stdout


@pytest.mark.long
def test_ranks_that_fail_are_told(runs: Path) -> None:
    done = launcher("doctor", "--recipe", MORTAL, *TWO, "--runs", str(runs), env={"KILL": "1:1"})
    assert done.returncode == 3
    assert "rank 1" in done.stderr
    assert [path.name.startswith("mortal-doctor-") for path in runs.iterdir()] == [True]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("batch.global=8",), "--recipe: is missing: what is measured, is so for a recipe. Name one."),
        (("--recipe", MORTAL, "--nodes", "2"), "--rendezvous: is missing. Write the name of number 0 and a port"),
        (
            ("--recipe", MORTAL, "--nodes", "2", "--node-rank", "2", "--rendezvous", "here"),
            "--node-rank: is 2, and the machines are numbered from 0 to 1. Give each its own number, or more --nodes.",
        ),
        (("--recipe", MORTAL, "launch.nodes=2"), "launch.nodes: is 2, and this is one machine. On each machine give"),
        (("--recipe", MORTAL, "batch.micro=auto"), "batch.micro: auto is worked out by a run, and one size is timed."),
    ],
)
def test_what_it_refuses(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = launcher("doctor", *arguments, "--runs", str(tmp_path / "runs"))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (tmp_path / "runs").exists()
