"""Machines that come and go while a run goes on. Each machine is a launcher with all that it starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.linux import descendants_of
from launcher.plan.order import sample_order
from tests.faults.table import Kind
from tests.processes import ROOT, clean_environment, launcher, processes_with
from tests.wandb_files import read_offline_runs

ELASTIC = "tests/tasks/elastic.yaml"
UPDATES, EVERY, BATCH = 120, 10, 22
OFFLINE = ("tracking.wandb.mode=offline",)
ALIKE = ("model.safetensors", "optimizer.safetensors")
PATIENCE = 180.0  # seconds that a machine gets for anything: on a busy one each start of Python and torch takes long
Recovered = Callable[[float], None]


class Machine:
    """A launcher in the background, for the run `it`."""

    def __init__(self, runs: Path, number: int, *settings: str, **env: str) -> None:
        self._told = runs / f"machine_{number}.txt"
        arguments = ("run", ELASTIC, "--runs", str(runs), "--run-id", "it", *settings)
        with self._told.open("w") as told:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "launcher", *arguments],
                env=clean_environment(SLOW=str(runs / "slow"), **env),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def told(self) -> str:
        return self._told.read_text()

    def dies(self) -> None:
        """As when the power fails: the launcher and all that it has started are gone at once."""
        pids = [self.process.pid, *descendants_of(self.process.pid)]
        for pid in pids:
            with suppress(ProcessLookupError):  # it has died with the one before
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def worker(self) -> int:
        """The process of its rank."""
        (found,) = [pid for pid in descendants_of(self.process.pid) if _is_worker(pid)]
        return found

    def ends(self) -> int:
        return self.process.wait(PATIENCE)


class Site:
    """The machines of a test, and what has come of their run."""

    def __init__(self, runs: Path, undisturbed: Path) -> None:
        self.runs = runs
        self._undisturbed = undisturbed
        self._numbers = count(1)
        (runs / "slow").touch()

    def machine(self, *settings: str, **env: str) -> Machine:
        return Machine(self.runs, next(self._numbers), *settings, **env)

    def rows(self) -> list[dict[str, Any]]:
        try:
            lines = (self.runs / "it" / "metrics.jsonl").read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def reaches(self, world: int, after: int = 0) -> list[dict[str, Any]]:
        """Wait for the second update that so many ranks make after an update; the rows until then."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            rows = self.rows()
            made = [row for row in rows if row["train/global_step"] > after and row["batch/world_size"] == world]
            if len(made) >= 2 and rows[-1] == made[-1]:
                return rows
            time.sleep(0.05)
        raise AssertionError(f"no update on {world} ranks: {self._all_told()}")

    def hurry(self) -> None:
        (self.runs / "slow").unlink()

    def checkpoint(self) -> int:
        """The update of the newest checkpoint."""
        found = (self.runs / "it" / "checkpoints").glob("step_*")
        return max((int(path.name.removeprefix("step_")) for path in found), default=0)

    def saved(self, after: int) -> None:
        """Wait for a checkpoint after an update."""
        deadline = time.monotonic() + PATIENCE
        while self.checkpoint() <= after:
            assert time.monotonic() < deadline, self._all_told()
            time.sleep(0.05)

    def says(self, machine: Machine, text: str) -> None:
        """Wait for a machine to say something."""
        deadline = time.monotonic() + PATIENCE
        while text not in machine.told:
            assert time.monotonic() < deadline, self._all_told()
            time.sleep(0.05)

    def check_batches(self) -> None:
        """Each update was made once, with the recipe's batch."""
        rows = self.rows()
        assert [row["train/global_step"] for row in rows] == list(range(1, UPDATES + 1))
        lines = (self._undisturbed / "metrics.jsonl").read_text().splitlines()
        batches = [json.loads(line)["batch/global_samples"] for line in lines]
        assert [row["batch/global_samples"] for row in rows] == batches
        assert set(batches) == {BATCH, 150 % BATCH}  # the tail of an epoch is what it is on any machines

    def check(self) -> None:
        """As above, and the bits are those of one undisturbed machine."""
        self.check_batches()
        for name in ALIKE:
            file = Path("checkpoints", f"step_{UPDATES:08d}", name)
            assert (self.runs / "it" / file).read_bytes() == (self._undisturbed / file).read_bytes()

    def _all_told(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.runs.glob("machine_*.txt")))


def _is_worker(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return b"launcher.worker.entry" in words and b"launcher.worker.agent" not in words


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as it is on one machine that nothing happens to."""
    runs = tmp_path_factory.mktemp("undisturbed")
    done = launcher("run", ELASTIC, "launch.nodes=1", "--runs", str(runs), "--run-id", "it")
    assert done.returncode == 0, done.stderr
    return runs / "it"


@pytest.fixture
def site(tmp_path: Path, undisturbed: Path) -> Iterator[Site]:
    """When a test is done, no process knows of its runs any more."""
    yield Site(tmp_path, undisturbed)
    left = list(processes_with(str(tmp_path)))
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.fault(
    Kind.WORLD,
    "a machine of an elastic run is lost, and others come",
    by="SIGKILL of a launcher and all its processes at once; further launchers of the same run",
    outcome="a join loses nothing; after a loss the others go on from the last checkpoint; the same bits in the end",
)
def test_machines_come_and_go(site: Site, recovered: Recovered) -> None:
    first = site.machine()
    alone = site.reaches(world=1)
    second = site.machine()
    both = site.reaches(world=2)
    assert both[: len(alone)] == alone  # not even made again
    worlds = [row["batch/world_size"] for row in both]
    assert worlds == sorted(worlds)
    assert f"going on after update {worlds.count(1)}\n" in first.told
    assert "joined: " in second.told

    site.saved(after=worlds.count(1))
    since, saved = time.monotonic(), site.checkpoint()
    second.dies()
    site.reaches(world=1, after=saved)
    recovered(time.monotonic() - since)
    assert f"lost: process {second.process.pid} on " in first.told
    assert "(tries left without progress: 2)" in first.told

    third, fourth = site.machine(), site.machine()
    site.reaches(world=3)
    site.hurry()
    assert [machine.ends() for machine in (first, third, fourth)] == [0, 0, 0]
    site.check()


ENGINES = {
    "accelerate": ("parallel.engine=accelerate",),
    "ZeRO 1": ("parallel.engine=deepspeed", "parallel.deepspeed.stage=1"),
    "ZeRO 3": ("parallel.engine=deepspeed", "parallel.deepspeed.stage=3"),
    "fsdp": ("parallel.engine=fsdp",),
}
INEXACT = ("train.determinism=same-world", "train.virtual_ranks=null")


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("settings", ENGINES.values(), ids=ENGINES)
@pytest.mark.fault(
    Kind.WORLD,
    "a machine of an elastic run is lost under an engine that shares out the model, or accelerate",
    by="SIGKILL of a launcher and all its processes at once; further launchers of the same run",
    outcome="the others go on from the last checkpoint; each update once, with the recipe's batch",
)
def test_every_engine_goes_on_on_other_machines(site: Site, settings: tuple[str, ...], recovered: Recovered) -> None:
    first, second = (site.machine(*INEXACT, *settings) for _ in range(2))
    joined = site.reaches(world=2)
    site.saved(after=joined[-1]["train/global_step"])
    since, saved = time.monotonic(), site.checkpoint()
    second.dies()
    site.reaches(world=1, after=saved)
    recovered(time.monotonic() - since)
    third = site.machine(*INEXACT, *settings)
    site.reaches(world=2, after=saved)
    site.hurry()
    assert [machine.ends() for machine in (first, third)] == [0, 0]
    site.check_batches()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.fault(
    Kind.WORLD,
    "the machine that leads an elastic run is lost",
    by="SIGKILL of its launcher and all its processes at once",
    outcome="another machine leads, from the last checkpoint; the same bits in the end, one W&B run, each update once",
)
def test_another_machine_leads_when_the_leader_dies(site: Site, recovered: Recovered) -> None:
    first = site.machine(*OFFLINE, WANDB_MODE="online")
    site.reaches(world=1)
    second = site.machine(*OFFLINE, WANDB_MODE="online")
    site.reaches(world=2)
    since, saved = time.monotonic(), site.checkpoint()
    first.dies()
    site.reaches(world=1, after=saved)
    recovered(time.monotonic() - since)
    assert "the launcher that led the run is gone: this one leads it now" in second.told
    site.hurry()
    assert second.ends() == 0
    site.check()
    logged = read_offline_runs(site.runs / "it")
    assert len({launch.id for launch in logged if launch.history}) == 1  # W&B's own process may have written nothing
    steps = [row["train/global_step"] for launch in logged for row in launch.rows()]
    assert steps == list(range(1, UPDATES + 1))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.fault(
    Kind.WORLD,
    "a rank on another machine than the leader's hangs",
    by="SIGSTOP of its process",
    outcome="the launcher of its machine finds it, the leader names it, and both go on from the last checkpoint",
)
def test_a_rank_that_hangs_is_found_by_the_launcher_of_its_machine(site: Site, recovered: Recovered) -> None:
    settings = ("guard.heartbeat=2", "launch.nodes=2:4")
    first, second = site.machine(*settings), site.machine(*settings)
    made = len(site.reaches(world=2))
    site.saved(after=made)
    leader, other = (second, first) if "joined: " in first.told else (first, second)
    since, saved = time.monotonic(), site.checkpoint()
    os.kill(other.worker(), signal.SIGSTOP)
    site.says(leader, "Hang: no sign of life for 2 s: its process was stopped")
    site.reaches(world=2, after=saved + EVERY)
    recovered(time.monotonic() - since)
    site.hurry()
    assert [machine.ends() for machine in (first, second)] == [0, 0]
    site.check()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.fault(
    Kind.WORLD,
    "a machine of an elastic run is told to stop",
    by="SIGTERM to its launcher, of the machine that leads or of another",
    outcome="the update is finished and saved, its launcher ends with 75, and the others go on: nothing is lost",
)
@pytest.mark.parametrize("leader", [True, False], ids=["the leader", "another"])
def test_a_machine_that_is_told_to_stop_leaves_the_rest(site: Site, leader: bool, recovered: Recovered) -> None:
    machines = [site.machine()]
    site.reaches(world=1)
    machines.append(site.machine())
    site.reaches(world=2)
    leaving, staying = machines if leader else reversed(machines)
    since, made = time.monotonic(), site.rows()
    leaving.process.send_signal(signal.SIGTERM)
    assert leaving.ends() == 75, leaving.told
    rows = site.reaches(world=1, after=len(made))
    recovered(time.monotonic() - since)
    assert rows[: len(made)] == made
    assert "tries left" not in staying.told
    site.hurry()
    assert staying.ends() == 0
    site.check()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.fault(
    Kind.WORLD,
    "an elastic run fails at the same update on all its machines",
    by="a sample that kills whatever rank meets it",
    outcome="it ends on all machines after the tries that bring it no further",
)
def test_a_run_that_gets_no_further_ends_on_all_machines(site: Site) -> None:
    """The last checkpoint is that of update 4; a sample of update 6 kills the rank that meets it."""
    site.hurry()
    poison = sample_order(np.array([5 * BATCH]), length=150, seed=0, epoch=0)[0]
    settings = ("launch.nodes=2:4", "launch.restarts=1", "checkpoint.every=2")
    machines = [site.machine(*settings, POISON=str(poison)) for _ in range(2)]
    assert [machine.ends() for machine in machines] == [3, 3]
    (leader,) = [machine for machine in machines if "joined: " not in machine.told]
    (other,) = [machine for machine in machines if machine is not leader]
    assert "leads it now" not in other.told
    assert leader.told.count("was killed by SIGKILL") == 2
    assert leader.told.count("going on after update 4 (tries left without progress: 0)") == 1


@pytest.mark.long
def test_machines_that_are_too_few_wait_and_then_end(site: Site) -> None:
    lonely = site.machine("launch.nodes=2:4", "parallel.timeout=2")
    assert lonely.ends() == 3
    assert "waiting for 1 more machine (launch.nodes 2:4)" in lonely.told
    assert "2 machines must be there (launch.nodes 2:4), and after 2 s (parallel.timeout) there is 1." in lonely.told


@pytest.mark.long
def test_only_the_same_elastic_run_is_joined(site: Site) -> None:
    room = "train.virtual_ranks=8"  # for two ranks on each of four machines
    first = site.machine(room)
    site.reaches(world=1)
    for setting, said in (
        ("optimizer.lr=0.02", "optimizer.lr: the run was begun with 0.01, not 0.02"),
        ("launch.nodes=1:3", "launch.nodes: the run has 1:4, not 1:3"),
        ("launch.nproc_per_node=2", "launch.nproc_per_node: the run has 1, not 2"),
    ):
        other = site.machine(room, setting)
        assert other.ends() == 2
        assert said in other.told
    fixed = site.machine(room, "launch.nodes=1")
    assert fixed.ends() == 73
    first.process.send_signal(signal.SIGTERM)
    assert first.ends() == 75
    assert {row["batch/world_size"] for row in site.rows()} == {1}
