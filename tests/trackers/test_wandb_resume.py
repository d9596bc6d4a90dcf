"""One W&B run per run directory, each update in it once, whatever the launches of the run went through."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import held
from launcher.trackers.wandb_files import last_step
from launcher.trackers.wandb_id import wandb_id_of
from tests.faults.table import Kind
from tests.processes import ROOT, clean_environment, launcher, wait_until
from tests.trackers.test_wandb import KEY, ROWS
from tests.wandb_files import LoggedRun, read_offline_runs
from tests.wandb_server import WandbServer

MORTAL = "tests/tasks/mortal.yaml"
ALL = list(range(1, 21))
CUT = 32768  # bytes
Row = dict[str, Any]


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as started:
        yield started


def run(folder: Path, mode: str, *arguments: str, env: Mapping[str, str] | None = None, expected: int = 0) -> str:
    """One launch of the run `it` in a folder; what it printed."""
    settings = (f"tracking.wandb.mode={mode}", "launch.restarts=0", "--runs", str(folder), "--run-id", "it")
    done = launcher("run", MORTAL, *settings, *arguments, env={"WANDB_MODE": "online", **(env or {})})
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout


def online(server: WandbServer) -> dict[str, str]:
    return {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}


def updates(rows: list[Row]) -> list[int]:
    return [row["train/global_step"] for row in rows]


def rows_of(folder: Path) -> list[Row]:
    return [json.loads(line) for line in (folder / "it" / "metrics.jsonl").read_text().splitlines()]


def untimed(rows: list[Row]) -> list[Row]:
    clocks = ("time/", "throughput/", "memory/")
    return [{key: value for key, value in row.items() if not key.startswith(clocks)} for row in rows]


def the_run(server: WandbServer) -> LoggedRun:
    (found,) = server.runs.values()
    return found


def sync(folder: Path, server: WandbServer) -> subprocess.CompletedProcess[str]:
    return launcher("sync", str(folder / "it"), env=online(server))


@pytest.mark.fault(
    Kind.TRACKING,
    "a run that is offline for W&B is killed and resumed",
    by="SIGKILL of a rank; --resume auto; launcher sync, twice",
    outcome="one W&B run with each step once; nothing is uploaded twice",
)
@pytest.mark.long
def test_an_offline_run_that_was_killed_goes_on_as_one_run_and_is_uploaded_once(
    tmp_path: Path, server: WandbServer
) -> None:
    run(tmp_path, "offline", env={"KILL": "1:15"}, expected=3)
    out = run(tmp_path, "offline", "--resume", "auto")
    assert "resumed after update" in out
    launches = read_offline_runs(tmp_path / "it")
    assert len(launches) == 2
    assert len({launch.id for launch in launches}) == 1
    logged = [row for launch in launches for row in launch.rows()]
    assert updates(logged) == ALL
    assert untimed(logged) == untimed(rows_of(tmp_path))

    for expected in ("20 rows uploaded, 0 were there", "0 rows uploaded, 20 were there"):
        done = sync(tmp_path, server)
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout
        assert the_run(server).id == launches[0].id
        assert the_run(server).rows() == rows_of(tmp_path)
        assert the_run(server).exit_code == 0


@pytest.mark.fault(
    Kind.TRACKING,
    "a run that is online for W&B is killed and resumed",
    by="SIGKILL of a rank; --resume auto",
    outcome="one W&B run with each step once",
)
@pytest.mark.long
def test_an_online_run_that_was_killed_goes_on_as_one_run(tmp_path: Path, server: WandbServer) -> None:
    run(tmp_path, "online", env={**online(server), "KILL": "1:15"}, expected=3)
    before = list(the_run(server).history)
    assert updates(before) == ALL[: len(before)] != []
    run(tmp_path, "online", "--resume", "auto", env=online(server))
    found = the_run(server)
    assert found.history[: len(before)] == before  # with their times: they were not sent again
    assert updates(found.rows()) == ALL
    assert untimed(found.rows()) == untimed(rows_of(tmp_path))


@pytest.mark.fault(
    Kind.TRACKING,
    "a killed run goes on offline that was online, or the other way round",
    by="SIGKILL of a rank; --resume auto; launcher sync",
    outcome="one W&B run with each step once",
)
@pytest.mark.long
@pytest.mark.parametrize("modes", [("offline", "online"), ("online", "offline")], ids=" then ".join)
def test_a_run_that_changes_between_online_and_offline_is_whole_in_the_end(
    tmp_path: Path, server: WandbServer, modes: tuple[str, str]
) -> None:
    run(tmp_path, modes[0], env={**online(server), "KILL": "1:15"}, expected=3)
    run(tmp_path, modes[1], "--resume", "auto", env=online(server))
    if modes[1] == "offline":
        assert len(the_run(server).history) < len(ALL)
        assert sync(tmp_path, server).returncode == 0
    assert updates(the_run(server).rows()) == ALL
    assert untimed(the_run(server).rows()) == untimed(rows_of(tmp_path))


@pytest.mark.long
def test_a_fork_with_another_recipe_is_another_wandb_run_with_all_rows(tmp_path: Path) -> None:
    run(tmp_path, "offline", env={"KILL": "1:15"}, expected=3)
    run(tmp_path, "offline", "optimizer.lr=0.02", "--resume", "auto", "--fork")
    first, second = read_offline_runs(tmp_path / "it")
    assert first.id != second.id
    assert updates(second.rows()) == ALL
    assert untimed(second.rows()) == untimed(rows_of(tmp_path))


def launches(folder: Path, *jobs: dict[str, Any], env: Mapping[str, str] | None = None) -> Path:
    """Launches that log rows to one run directory, each in a process that may be killed; see `log_rows`."""
    (folder / "it").mkdir(exist_ok=True)
    for job in jobs:
        done = subprocess.run(
            [sys.executable, "-m", "tests.trackers.test_wandb_resume", json.dumps({"run": str(folder / "it"), **job})],
            cwd=ROOT,
            env={**clean_environment(), "HOME": str(folder), **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == (-9 if job.get("die") else 0), done.stdout + done.stderr
    return folder / "it"


def log_rows(run: str, first: int, last: int, die: str = "", mode: str = "offline") -> None:
    """Log rows to both trackers, from one that a checkpoint is followed by.

    Args:
        die: "all" for a SIGKILL of this process and W&B's own at once, "wandb" for one of W&B's own before the last
            two rows, and of this process in the end.
    """
    from launcher.trackers.jsonl import JsonlTracker
    from launcher.trackers.wandb import make_wandb_tracker
    from tests.trackers.test_wandb import kill_wandb, make

    directory = RunDirectory(Path(run))
    plan = make(mode)
    directory.plan.write_text(plan.model_dump_json())
    if directory.metrics.exists():
        directory.metrics.write_text("".join(directory.metrics.read_text().splitlines(keepends=True)[: first - 1]))
    metrics = JsonlTracker(directory.metrics, print)
    tracker = make_wandb_tracker(plan, directory.path, print)
    assert tracker is not None
    for update in range(first, last + 1):
        if die == "wandb" and update == last - 1:
            kill_wandb()
        row = {**ROWS[1], "train/global_step": update, "train/loss": math.sin(update)}
        metrics.log(row)
        tracker.log(row)
    if die == "all":
        (file,) = directory.wandb.glob("offline-run-*/*.wandb")
        wait_until(lambda: file.stat().st_size > CUT)  # rows go to W&B in a thread, and to its file in another process
        kill_wandb()
    if die:
        os.kill(os.getpid(), 9)
    tracker.finish(True)


@pytest.mark.fault(
    Kind.TRACKING,
    "W&B lost rows that metrics.jsonl has",
    by="SIGKILL of a rank and of the process of W&B, its file cut",
    outcome="the next launch hands them over first; each step once",
)
def test_rows_that_wandb_never_got_are_handed_over_first(tmp_path: Path) -> None:
    """W&B writes in a process of its own, behind the journal: killed at once, its file may end anywhere."""
    it = launches(tmp_path, {"first": 1, "last": 100, "die": "all"})
    (path,) = it.glob("wandb/offline-run-*/*.wandb")
    path.write_bytes(path.read_bytes()[:CUT])
    assert 0 < last_step(it / "wandb", wandb_id_of(RunDirectory(it))) < 96
    launches(tmp_path, {"first": 97, "last": 120})
    assert updates(every_row(it)) == list(range(1, 121))


@pytest.mark.fault(
    Kind.TRACKING,
    "W&B has rows past the checkpoint",
    by="a launch that goes on before them",
    outcome="they are not logged again; each step once",
)
def test_rows_that_wandb_has_beyond_the_checkpoint_are_not_logged_again(tmp_path: Path) -> None:
    it = launches(tmp_path, {"first": 1, "last": 10}, {"first": 5, "last": 8}, {"first": 3, "last": 12})
    assert updates(every_row(it)) == list(range(1, 13))


@pytest.mark.long
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_the_summary_has_the_best_of_all_launches(tmp_path: Path, server: WandbServer, mode: str) -> None:
    jobs = ({"first": 1, "last": 6, "mode": mode}, {"first": 7, "last": 9, "mode": mode})
    it = launches(tmp_path, *jobs, env=online(server))
    last = the_run(server) if mode == "online" else read_offline_runs(it)[-1]
    assert last.summary["train/loss"] == {"min": math.sin(5), "last": math.sin(9)}


@pytest.mark.fault(
    Kind.TRACKING,
    "the process of W&B dies",
    by="SIGKILL",
    outcome="metrics.jsonl is complete; the next launch brings W&B what it lacks",
)
@pytest.mark.long
def test_when_wandb_alone_was_killed_the_next_launch_brings_what_it_lacks(tmp_path: Path) -> None:
    it = launches(tmp_path, {"first": 1, "last": 8, "die": "wandb"}, {"first": 8, "last": 12})
    assert updates(every_row(it)) == list(range(1, 13))


def every_row(run_dir: Path) -> list[Row]:
    """The rows of all launches, in their order."""
    return [row for launch in read_offline_runs(run_dir) for row in launch.rows()]


def test_the_id_is_kept_and_a_broken_one_is_replaced(tmp_path: Path) -> None:
    it = RunDirectory(tmp_path)
    chosen = wandb_id_of(it)
    assert wandb_id_of(it) == chosen
    it.wandb_id.write_bytes(b"\xff/../")
    assert wandb_id_of(it) not in (chosen, "")


@pytest.mark.fault(
    Kind.TRACKING,
    "a file of W&B is cut or damaged",
    by="cut at 8 lengths, zeros written into it",
    outcome="read up to there",
)
def test_files_that_are_cut_or_damaged_are_read_up_to_there(tmp_path: Path) -> None:
    it = launches(tmp_path, {"first": 1, "last": 200})
    (path,) = it.glob("wandb/offline-run-*/*.wandb")
    wandb_id = wandb_id_of(RunDirectory(it))
    assert last_step(it / "wandb", wandb_id) == 200
    assert last_step(it / "wandb", "another") == 0
    content = path.read_bytes()
    assert len(content) > 2 * 32768
    found = []
    for size in (0, 5, 7, 9, 32768, 32770, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        found.append(last_step(it / "wandb", wandb_id))
    assert found == sorted(found)
    assert found[:4] == [0, 0, 0, 0]
    assert 0 < found[4] < found[6] < found[7] == 200
    path.write_bytes(content[: len(content) // 2] + b"\0" * 8 + content[len(content) // 2 + 8 :])
    assert 0 < last_step(it / "wandb", wandb_id) < 200


def test_sync_says_what_keeps_it(tmp_path: Path, server: WandbServer) -> None:
    done = launcher("sync", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "this is not the directory of a run" in done.stderr
    it = RunDirectory(launches(tmp_path, {"first": 1, "last": 2}))
    home = {"HOME": str(tmp_path)}
    done = launcher("sync", str(it.path), env=home)
    assert (done.returncode, done.stderr) == (3, "launcher: W&B cannot be used: no key is configured.\n")
    with held(it):
        done = launcher("sync", str(it.path), env={**home, **online(server)})
    assert done.returncode == 73
    assert server.runs == {}
    it.metrics.write_text("no row\n" + it.metrics.read_text())
    done = launcher("sync", str(it.path), env={**home, **online(server)})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("warning: damaged lines of metrics.jsonl that are left out: 1\n")


if __name__ == "__main__":
    log_rows(**json.loads(sys.argv[1]))
