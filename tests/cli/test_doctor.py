"""`launcher doctor` on this machine: what it says, what it measures, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.runners.address import free_port
from tests.processes import ROOT, clean_environment, launcher

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
    assert not (runs / "runs").exists()  # what was measured leaves nothing


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
    assert done.stderr.startswith("launcher: Rank 1 was killed by SIGKILL")
    assert str(runs) not in done.stderr  # whose files are gone
    assert list(runs.iterdir()) == []


HERE = ("doctor", "--recipe", MORTAL, "launch.nproc_per_node=1", "--nodes", "2", "--rendezvous")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_machine_that_does_not_come(rank: int, runs: Path) -> None:
    here = f"127.0.0.1:{free_port()}"
    more = ("--node-rank", str(rank), "--runs", str(runs), "parallel.timeout=3", "--json")
    done = launcher(*HERE, here, *more)
    assert (done.returncode, json.loads(done.stdout)["network"]) == (3, None)
    assert done.stderr.splitlines() == [
        f"waiting for machine {1 - rank} at {here}: start launcher doctor there too",
        f"launcher: machine {1 - rank} has not come to {here} within 3 s (parallel.timeout): "
        "start launcher doctor there too.",
    ]
    assert list(runs.iterdir()) == []


def test_a_port_that_is_taken_is_refused_and_a_signal_ends_the_waiting(runs: Path) -> None:
    with socket.create_server(("", 0)) as listening:
        port = listening.getsockname()[1]
        done = launcher(*HERE, f"127.0.0.1:{port}", "--node-rank", "0", "--runs", str(runs), "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["network"] is None  # what was found of the machine is told
    assert done.stderr == (
        f"launcher: --rendezvous: port {port} of this machine is in use. Choose another one, on all machines.\n"
    )
    command = [sys.executable, "-m", "launcher", *HERE, f"127.0.0.1:{free_port()}", "--node-rank", "0", "--json"]
    with subprocess.Popen(
        [*command, "--runs", str(runs)], env=clean_environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        assert process.stderr.readline().startswith("waiting for machine 1 at ")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert list(runs.iterdir()) == []


def test_machines_with_other_recipes_are_not_measured_together(runs: Path) -> None:
    command = [sys.executable, "-m", "launcher", *HERE, f"127.0.0.1:{free_port()}", "--runs", str(runs)]
    with subprocess.Popen(
        [*command, "--node-rank", "0"], env=clean_environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        done = launcher(*command[3:], "--node-rank", "1", "batch.micro=2")
        assert done.returncode == 2
        assert "--recipe: is not what machine 0 has, with the keys after it. Give all of them the same." in done.stderr
        first.send_signal(signal.SIGINT)
        assert first.wait(30) == 130
    assert list(runs.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("batch.global=8",), "--recipe: is missing: what is measured, is so for a recipe. Name one."),
        (("--recipe", MORTAL, "--nodes", "2"), "--rendezvous: is missing: it says where machine 0 can be reached"),
        (("--recipe", MORTAL, "--rendezvous", "here:1"), "--nodes: is missing: it says how many machines there are."),
        (
            ("--recipe", MORTAL, "--nodes", "2", "--node-rank", "2", "--rendezvous", "here:70000"),
            "--node-rank: 2 is none of 2 machines. They are 0 to 1.\n"
            "--rendezvous: 'here:70000' is no HOST:PORT. Write the name or address of machine 0,",
        ),
        (
            ("--recipe", MORTAL, "launch.nodes=4", "--nodes", "2", "--node-rank", "1", "--rendezvous", "here:1"),
            "launch.nodes: is 4, and --nodes says 2. Leave it out of the recipe, or give --nodes the same.",
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
