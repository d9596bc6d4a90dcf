"""Elastic runs on hosts that die, and over links that are cut. Their bits are those of one undisturbed host."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.table import Kind
from tests.hosts.site import Launched, Site
from tests.processes import ROOT, launcher

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
ELASTIC = ROOT / "tests" / "tasks" / "elastic.yaml"
UPDATES, EVERY = 600, 20
SETTINGS = ("launch.nodes=1:2", f"train.updates={UPDATES}", f"checkpoint.every={EVERY}")
TIMEOUT = 20  # seconds, of parallel.timeout: how long a cut is waited for
ALIKE = ("model.safetensors", "optimizer.safetensors")
Recovered = Callable[..., None]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as it is on one machine that nothing happens to."""
    runs = tmp_path_factory.mktemp("undisturbed")
    done = launcher(
        "run", str(ELASTIC), *SETTINGS, "launch.nodes=1", "--runs", str(runs), "--run-id", "it", timeout=300
    )
    assert done.returncode == 0, done.stderr
    return runs / "it"


class Elastic:
    """An elastic run on two hosts, paced until it is to end.

    Attributes:
        launched: the launchers that were started first, by host.

    Args:
        site: the hosts.
        undisturbed: what the run is held against.
    """

    def __init__(self, site: Site, undisturbed: Path) -> None:
        self.site = site
        self._undisturbed = undisturbed
        self.launched: list[Launched] = []
        site.slow.touch()

    def host(self, number: int) -> Launched:
        """Start the launcher of a host."""
        return self.site.launch(number, ELASTIC, *SETTINGS, f"parallel.timeout={TIMEOUT}")

    def both(self) -> tuple[int, int]:
        """Start both hosts, and wait until they have saved; the one that leads, and the other."""
        self.launched = [self.host(0), self.host(1)]
        self.reaches(world=2)
        self.saves()
        led = int("joined: " in self.launched[0].told)
        return led, 1 - led

    def made(self) -> int:
        """The last update."""
        rows = self.site.rows()
        return int(rows[-1]["train/global_step"]) if rows else 0

    def reaches(self, world: int, after: int = 0) -> list[dict[str, Any]]:
        """Wait for an update on so many hosts, later than a given one."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = self.site.rows()
            last = found[-1] if found else {}
            return last.get("batch/world_size") == world and last["train/global_step"] > after

        self.site.wait(is_there)
        return found

    def saves(self) -> None:
        """Wait for the next checkpoint."""
        before = self.site.checkpoint()
        self.site.wait(lambda: self.site.checkpoint() > before)

    def check(self, *launched: Launched) -> None:
        """Let the run end: each update once, with the batch of the recipe, and the bits of the undisturbed one."""
        self.site.slow.unlink()
        assert [host.ends() for host in launched] == [0] * len(launched), [host.told for host in launched]
        rows = self.site.rows()
        assert [row["train/global_step"] for row in rows] == list(range(1, UPDATES + 1))
        assert {row["batch/global_samples"] for row in rows} == {22, 150 % 22}  # that of the recipe, and the tail
        for name in ALIKE:
            file = Path("checkpoints", f"step_{UPDATES:08d}", name)
            assert (self.site.run / file).read_bytes() == (self._undisturbed / file).read_bytes()


@pytest.fixture
def run(site: Site, undisturbed: Path) -> Elastic:
    return Elastic(site, undisturbed)


LOST = "one of two hosts of an elastic run is lost"
BACK = "a host that was lost comes back"


@pytest.mark.fault(
    Kind.HOST,
    BACK,
    by="its launcher is started again (seconds: until both have made an update)",
    outcome="it joins after an update that is finished and saved: none is made twice; the same bits in the end",
)
@pytest.mark.fault(
    Kind.HOST,
    LOST,
    by="SIGKILL of all that runs on it: on the other host than the one that leads",
    outcome="the other goes on alone from the last checkpoint, with the same global batch; the same bits in the end",
)
def test_a_host_is_lost_and_comes_back(run: Elastic, recovered: Recovered) -> None:
    leads, other = run.both()
    since, saved = time.monotonic(), run.site.checkpoint()
    run.site.hosts.kill(other)
    alone = run.reaches(world=1, after=saved)
    recovered(time.monotonic() - since, LOST)
    lost = f"lost: process {run.launched[other].process.pid} on {run.site.hosts.names[other]}\n"
    assert lost in run.launched[leads].told

    since = time.monotonic()
    again = run.host(other)
    rows = run.reaches(world=2, after=alone[-1]["train/global_step"])
    recovered(time.monotonic() - since, BACK)
    assert rows[: len(alone)] == alone
    run.check(run.launched[leads], again)


@pytest.mark.fault(
    Kind.HOST,
    "the host that leads an elastic run is lost",
    by="SIGKILL of all that runs on it",
    outcome="the other one leads, alone, from the last checkpoint; the same bits in the end",
)
def test_the_host_that_leads_is_lost(run: Elastic, recovered: Recovered) -> None:
    leads, other = run.both()
    since, saved = time.monotonic(), run.site.checkpoint()
    run.site.hosts.kill(leads)
    run.reaches(world=1, after=saved)
    recovered(time.monotonic() - since)
    assert "the launcher that led the run is gone: this one leads it now\n" in run.launched[other].told
    run.check(run.launched[other])


@pytest.mark.fault(
    Kind.HOST,
    "the link between two hosts is cut for a short time",
    by="the switch lets nothing through for 5 s, of the 20 s of `parallel.timeout` (seconds: from the end of the cut)",
    outcome="the update is finished when the link is back; nothing is started again; the same bits in the end",
)
def test_a_short_cut_is_waited_for(run: Elastic, recovered: Recovered) -> None:
    _, other = run.both()
    told = [host.told.count("going on after") for host in run.launched]
    run.site.hosts.cut(other)
    time.sleep(5)  # as long as the cut is: there is nothing to wait for
    made = run.made()
    run.site.hosts.restore(other)
    since = time.monotonic()
    run.reaches(world=2, after=made)
    recovered(time.monotonic() - since)
    assert [host.told.count("going on after") for host in run.launched] == told
    run.check(*run.launched)


@pytest.mark.parametrize("leader", [False, True], ids=["of the other host", "of the host that leads"])
@pytest.mark.fault(
    Kind.HOST,
    "the link between two hosts is cut for long",
    by="the switch lets nothing through for longer than `parallel.timeout` (20 s); then the link is back, and the "
    "launcher of the host that had ended is started again",
    outcome="the host that leads goes on alone from the last checkpoint; the other ends, writes nothing, and joins "
    "again; the same bits in the end",
)
def test_a_long_cut_leaves_one_host(run: Elastic, leader: bool, recovered: Recovered) -> None:
    leads, other = run.both()
    since, saved = time.monotonic(), run.site.checkpoint()
    run.site.hosts.cut(leads if leader else other)
    run.reaches(world=1, after=saved)
    recovered(time.monotonic() - since)
    left = run.launched[other]
    assert left.ends() == 3, left.told
    without = f"goes on without process {left.process.pid} on {run.site.hosts.names[other]}, whose part has failed"
    assert without in run.launched[leads].told
    run.site.hosts.restore(leads if leader else other)
    again = run.host(other)
    run.reaches(world=2, after=run.made())
    run.check(run.launched[leads], again)
