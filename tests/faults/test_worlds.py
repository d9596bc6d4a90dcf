"""A run that is killed, stopped and taken up on other ranks: each sample of the epoch once, and one W&B run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.rundir.layout import RunDirectory
from tests.faults.table import Kind
from tests.processes import launcher
from tests.tasks.journal import SAMPLES, journal_of
from tests.tasks.threats import Threat, carried_out, write_threats
from tests.trackers.test_wandb_resume import online, the_run, untimed
from tests.wandb_files import read_offline_runs
from tests.wandb_server import WandbServer

JOURNAL = "tests/tasks/journal.yaml"
UPDATES = 24
# world, what befalls the launch in the middle of a window, and its exit code
LAUNCHES = (
    (2, Threat("kill rank", 1, at=4 * 7 + 2), 3),
    (3, Threat("end launcher", 2, at=2 * 4 + 1), 75),
    (1, Threat("kill rank", 0, at=8 * 4 + 3), 3),
    (4, None, 0),
)
Row = dict[str, Any]


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as started:
        yield started


def run(runs: Path, run_id: str, world: int, expected: int = 0, env: Mapping[str, str] | None = None) -> int:
    """One launch; the update that it went on after."""
    job = (f"launch.nproc_per_node={world}", "tracking.wandb.mode=offline", "--resume", "auto")
    environment = {"WANDB_MODE": "online", **(env or {})}
    done = launcher("run", JOURNAL, *job, "--runs", str(runs), "--run-id", run_id, env=environment)
    assert done.returncode == expected, done.stdout + done.stderr
    resumed = re.search("resumed after update ([0-9,]+)", done.stdout)
    return int(resumed[1]) if resumed else 0


def rows(runs: Path, run_id: str) -> list[Row]:
    return [json.loads(line) for line in (runs / run_id / "metrics.jsonl").read_text().splitlines()]


def journal(runs: Path, run_id: str, begun_after: list[int]) -> tuple[dict[int, list[int]], int]:
    """The samples of each update, in no order, and how many entries were thrown away.

    What a launch did after the checkpoint that the next one went on from does not count: it was made again.
    """
    kept: dict[int, list[int]] = {}
    thrown_away = 0
    for launch, until in enumerate([*begun_after[1:], UPDATES], start=1):
        pattern = journal_of(RunDirectory(runs / run_id), launch, "*")
        for path in sorted(pattern.parent.glob(pattern.name)):
            for entry in map(json.loads, path.read_text().splitlines()):
                assert entry["update"] > begun_after[launch - 1]
                if entry["update"] <= until:
                    kept.setdefault(entry["update"], []).extend(entry["samples"])
                else:
                    thrown_away += 1
    return kept, thrown_away


@pytest.mark.fault(
    Kind.WORLD,
    "the number of ranks changes while a run is resumed: 2, 3, 1, 4",
    by="SIGKILL of a rank, SIGTERM to the launcher; --resume auto",
    outcome="each sample of the epoch once; one W&B run with each step once; the undisturbed run's batches and rates",
)
@pytest.mark.long
@pytest.mark.timeout(600)
def test_on_2_then_3_then_1_then_4_ranks_each_sample_is_taken_once(tmp_path: Path, server: WandbServer) -> None:
    run(tmp_path, "whole", 2)
    threats = tmp_path / "threats"
    env = write_threats(threats, [threat for _, threat, _ in LAUNCHES])
    begun_after = [run(tmp_path, "it", world, expected, env) for world, _, expected in LAUNCHES]
    assert [threat.what for threat in carried_out(threats)] == ["kill rank", "end launcher", "kill rank"]
    assert begun_after == sorted(set(begun_after)), "each launch got further"

    kept, thrown_away = journal(tmp_path, "it", begun_after)
    assert sorted(sample for samples in kept.values() for sample in samples) == list(range(SAMPLES))
    assert thrown_away > 0
    undisturbed, _ = journal(tmp_path, "whole", [0])
    assert {update: sorted(samples) for update, samples in kept.items()} == {
        update: sorted(samples) for update, samples in undisturbed.items()
    }

    found, expected = rows(tmp_path, "it"), rows(tmp_path, "whole")
    assert [row["train/global_step"] for row in found] == list(range(1, UPDATES + 1))
    for key in ("batch/global_samples", "batch/global_items", "train/learning_rate", "train/samples_seen"):
        assert [row[key] for row in found] == [row[key] for row in expected], key
    assert [row["train/loss"] for row in found] == pytest.approx([row["train/loss"] for row in expected], rel=1e-3)
    assert {row["batch/world_size"] for row in found} == {1, 2, 3, 4}

    launches = read_offline_runs(tmp_path / "it")
    assert len(launches) == len(LAUNCHES)
    # The file of W&B's own process has nothing in it where that was killed before it wrote.
    (wandb_id,) = {launch.id for launch in launches if launch.id}
    logged = [row for launch in launches for row in launch.rows()]
    assert untimed(logged) == untimed(found)
    done = launcher("sync", str(tmp_path / "it"), env=online(server))
    assert done.returncode == 0, done.stdout + done.stderr
    assert the_run(server).id == wandb_id
    assert the_run(server).rows() == found
