"""`launcher run --nodes 2 --node-rank R --rendezvous HOST:PORT` on two hosts with a network between them."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.table import Kind
from tests.hosts.site import Launched, Site
from tests.processes import ROOT, clean_environment, launcher

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
MORTAL = ROOT / "tests" / "tasks" / "mortal.yaml"
PACED = ("task.entry=mortal.py:Paced", "train.updates=40", "checkpoint.every=10")
ONE_EACH = "launch.nproc_per_node=1"
SAME = ("train/global_step", "train/loss", "train/grad_norm", "batch/global_samples")
NOT_SHOWN = {"LAUNCHER_GENERATION", "LAUNCHER_AFTER", "LAUNCHER_NODE", "LAUNCHER_LAUNCH"}  # given with the run itself
OF_THE_SHELL = {"PWD", "OLDPWD", "SHLVL", "_"}


def undisturbed(runs: Path, *settings: str) -> list[list[float]]:
    """The rows of the same run on two ranks of one machine."""
    done = launcher("run", str(MORTAL), *settings, "launch.nproc_per_node=2", "--runs", str(runs), "--run-id", "one")
    assert done.returncode == 0, done.stderr
    rows = map(json.loads, (runs / "one" / "metrics.jsonl").read_text().splitlines())
    return [[row[key] for key in SAME] for row in rows]


def added(variables: list[str]) -> dict[str, str]:
    """Variables that a launch adds to the environment of the tests."""
    before = {*clean_environment(), *NOT_SHOWN, *OF_THE_SHELL, "SLOW"}
    named = (variable.partition("=")[::2] for variable in variables if variable)
    return {name: value for name, value in named if name not in before}


def shown(site: Site, host: int, *settings: str) -> tuple[list[str], dict[str, str]]:
    """The command that a dry run prints on a host, and the variables before it."""
    command = [sys.executable, "-m", "launcher", "run", str(MORTAL), *site.place(host), *settings, "--dry-run"]
    told = subprocess.run(
        site.hosts.on(host, *command, "--runs", str(site.runs), "--run-id", "it"),
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    words = shlex.split(told.stdout.rpartition("END_OF_FILE\n")[2].replace("\\\n", " "))
    return words[words.index(sys.executable) :], added(words[: words.index(sys.executable)])


def executed(site: Site, host: int) -> tuple[list[str], dict[str, str]]:
    """The command of the agent that runs on a host, and what it was told by the launcher."""
    for pid in site.hosts.pids(host):
        command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        if command[1:3] == ["-m", "launcher.worker.agent"]:
            return command, added(Path(f"/proc/{pid}/environ").read_text().split("\0"))
    raise AssertionError(f"nothing runs on host {host}")


@pytest.mark.parametrize("method", ["torchrun", "accelerate"])
def test_two_hosts_train_as_one_does_and_as_was_shown(site: Site, method: str) -> None:
    settings = (*PACED, f"launch.method={method}")
    dry = [shown(site, host, *settings, ONE_EACH) for host in (0, 1)]
    site.slow.touch()
    hosts = [site.by_hand(number, MORTAL, *settings, ONE_EACH) for number in (1, 0)]  # in any order
    site.wait(lambda: len(site.rows()) > 0)
    assert [executed(site, host) for host in (0, 1)] == dry
    site.slow.unlink()
    assert [host.ends() for host in hosts] == [0, 0], [host.told for host in hosts]
    rows = [[row[key] for key in SAME] for row in site.rows()]
    assert rows == undisturbed(site.runs, *settings)


def begun(site: Site) -> list[Launched]:
    """Both hosts, with an update made and a while to go."""
    site.slow.touch()
    hosts = [site.by_hand(number, MORTAL, *PACED, ONE_EACH) for number in (0, 1)]
    site.wait(lambda: len(site.rows()) > 2)
    return hosts


@pytest.mark.parametrize("stopped", [0, 1], ids=["the first host", "the other host"])
@pytest.mark.fault(
    Kind.HOST,
    "Ctrl-C on one of two hosts that were started by hand",
    by="SIGINT to its launcher: the first one's, the other's",
    outcome="the update is finished and saved, both launchers end with 75 and say so; nothing is left running",
)
def test_ctrl_c_on_one_host_ends_both_with_a_checkpoint(
    site: Site, stopped: int, recovered: Callable[[float], None]
) -> None:
    hosts = begun(site)
    since = time.monotonic()
    hosts[stopped].process.send_signal(signal.SIGINT)
    assert [host.ends() for host in hosts] == [75, 75], [host.told for host in hosts]
    recovered(time.monotonic() - since)
    assert all("preempted: " in host.told for host in hosts)
    if stopped == 1:
        assert f"told to stop: process {hosts[1].process.pid} on {site.hosts.names[1]}\n" in hosts[0].told
    assert site.status()["state"] == "preempted"
    assert site.checkpoint() == len(site.rows()) == site.status()["update"] > 0
    site.is_quiet()


@pytest.mark.fault(
    Kind.HOST,
    "one of two hosts that were started by hand is lost",
    by="SIGKILL of all that runs on it: on the other host than the first",
    outcome="the first one says which, ends with 3, and nothing is left running (seconds: until then)",
)
def test_the_loss_of_a_host_ends_the_first_with_the_reason(site: Site, recovered: Callable[[float], None]) -> None:
    first, other = begun(site)
    since = time.monotonic()
    site.hosts.kill(1)
    assert (first.ends(), other.ends()) == (3, -9), first.told
    recovered(time.monotonic() - since)
    lost = f"The launcher of another machine has died (process {other.process.pid} on {site.hosts.names[1]})."
    assert first.told.count(f"launcher: {lost}") == 1
    assert (site.status()["state"], site.status()["exit_code"]) == ("failed", 3)
    site.is_quiet()


@pytest.mark.fault(
    Kind.HOST,
    "the first of two hosts that were started by hand is lost",
    by="SIGKILL of all that runs on it; both are started again with --resume auto",
    outcome="the other one says so and ends with 3 (seconds: until then); both go on, and end as if undisturbed",
)
def test_the_loss_of_the_first_host_ends_the_others(site: Site, recovered: Callable[[float], None]) -> None:
    first, other = begun(site)
    site.wait(lambda: site.checkpoint() > 0)
    since = time.monotonic()
    site.hosts.kill(0)
    assert (first.ends(), other.ends()) == (-9, 3), other.told
    recovered(time.monotonic() - since)
    assert "launcher: The launcher of the first machine is gone: this one ends.\n" in other.told
    site.is_quiet()
    site.slow.unlink()
    again = [site.by_hand(number, MORTAL, *PACED, ONE_EACH, "--resume", "auto") for number in (1, 0)]
    assert [host.ends() for host in again] == [0, 0], [host.told for host in again]
    assert "resumed after update 10" in again[1].told
    assert [[row[key] for key in SAME] for row in site.rows()] == undisturbed(site.runs, *PACED)
