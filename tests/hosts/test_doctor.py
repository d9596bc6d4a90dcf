"""`launcher doctor --recipe` on two hosts with slow links: what it predicts is what the benchmark shows."""

from __future__ import annotations

import json
import subprocess
import sys
from math import sqrt
from pathlib import Path

import pytest

from tests.hosts.network import Hosts
from tests.hosts.site import Site
from tests.processes import ROOT, clean_environment

benchmark = pytest.importorskip("benchmarks.network.__main__", reason="the benchmark of networks is not there")
RECIPE = ROOT / "benchmarks" / "network" / "recipe.yaml"
CLOSE = 1.3  # the most that the two may differ by, as a factor


def predicted(two: Hosts, folder: Path, *more: str) -> dict[str, float]:
    """What the doctors of both hosts say of the recipe of the benchmark; each has a folder of its own."""
    doctors = []
    for rank in (0, 1):
        command = [
            *(sys.executable, "-m", "launcher", "doctor", "--recipe", str(RECIPE), "--json"),
            *("--nodes", "2", "--node-rank", str(rank), "--rendezvous", f"{two.names[0]}:29400"),
            *("--runs", str(folder / str(rank)), "batch.global=64", "launch.nproc_per_node=1", "launch.device=cpu"),
            *more,
        ]
        doctors.append(
            subprocess.Popen(
                two.on(rank, *command),
                env=clean_environment(),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    found = []
    for doctor in doctors:
        out, wrong = doctor.communicate(timeout=280)
        assert out, wrong
        found.append(json.loads(out)["network"])
    assert found[0] == found[1]  # they say the same
    return dict(found[0])


@pytest.mark.timeout(300)
def test_ranks_meet_where_the_name_of_a_host_is_its_own_loopback(site: Site, tmp_path: Path) -> None:
    """As Debian has it; the ranks find each other as those of a run do, by torchrun and by accelerate."""
    network = predicted(site.hosts, tmp_path)
    assert network["world_size"] == 2
    assert network["latency"] > 0
    assert predicted(site.hosts, tmp_path, "launch.method=accelerate")["world_size"] == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("link", ["1gbit", "100mbit"])
def test_the_k_at_which_the_network_hides(two: Hosts, link: str, tmp_path: Path) -> None:
    """The benchmark runs before and after: how fast a machine computes differs from minute to minute."""
    updates = (12, 6) if link == "1gbit" else (4, 4)
    settings = benchmark.Settings(link, (1, 16), 1, updates, (1, 1))
    before = benchmark.measured(two, settings).hidden
    network = predicted(two, tmp_path)  # the links are shaped
    after = benchmark.measured(two, settings).hidden
    rate = {"1gbit": 1e9, "100mbit": 1e8}[link]
    assert 0.8 * rate < network["bandwidth_bits"] < 1.05 * rate
    shown = sqrt(before * after)
    print(f"{link}: predicted K = {network['balanced_accumulation']:.1f}, shown K = {before:.1f}, then {after:.1f}")
    assert 1 / CLOSE < network["balanced_accumulation"] / shown < CLOSE
