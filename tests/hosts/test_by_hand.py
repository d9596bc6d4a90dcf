"""`launcher run --nodes 2 --node-rank R --rendezvous HOST:PORT` on two hosts with a network between them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hosts.site import Site
from tests.processes import ROOT, launcher

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
MORTAL = ROOT / "tests" / "tasks" / "mortal.yaml"
ONE_EACH = "launch.nproc_per_node=1"
SAME = ("train/global_step", "train/loss", "train/grad_norm", "batch/global_samples")


def undisturbed(runs: Path, recipe: Path, *settings: str) -> list[list[float]]:
    """The rows of the same run on two ranks of one host."""
    done = launcher("run", str(recipe), *settings, "launch.nproc_per_node=2", "--runs", str(runs), "--run-id", "one")
    assert done.returncode == 0, done.stderr
    rows = map(json.loads, (runs / "one" / "metrics.jsonl").read_text().splitlines())
    return [[row[key] for key in SAME] for row in rows]


@pytest.mark.parametrize("method", ["torchrun", "accelerate"])
def test_two_hosts_train_as_one_does(site: Site, method: str) -> None:
    settings = (f"launch.method={method}", "train.updates=20")
    hosts = [site.by_hand(number, MORTAL, *settings, ONE_EACH) for number in (1, 0)]  # in any order
    assert [host.ends() for host in hosts] == [0, 0], [host.told for host in hosts]
    rows = [[row[key] for key in SAME] for row in site.rows()]
    assert rows == undisturbed(site.runs, MORTAL, *settings)
