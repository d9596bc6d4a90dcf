"""Launches on a fixed number of machines, as far as no training is needed: who leads, who waits for whom."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launcher.recipe.node_range import NodeRange
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import held
from launcher.rundir.status import RunStatus
from launcher.runners.nodes import present
from launcher.runners.rounds import Round
from launcher.runners.supervise import Signals
from launcher.runners.together import Together, TooFewMachinesError
from tests.processes import ROOT, launcher

MORTAL = str(ROOT / "tests" / "tasks" / "mortal.yaml")
STEP = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2"}
MINE = "12.0.0"  # what the launchers of this step call it


def on_node(number: int, runs: Path, *settings: str) -> tuple[int, str]:
    """The exit code of the launcher of a node, and its last words."""
    arguments = (
        "run",
        MORTAL,
        "launch.nodes=2",
        "parallel.timeout=1",
        *settings,
        "--runs",
        str(runs),
        "--run-id",
        "it",
    )
    done = launcher(*arguments, env={**STEP, "SLURM_NODEID": str(number)})
    return done.returncode, done.stderr


@pytest.fixture
def run(runs: Path) -> RunDirectory:
    (runs / "it").mkdir()
    return RunDirectory(runs / "it")


def test_the_end_of_a_launch_before_is_none_of_this_one(run: RunDirectory) -> None:
    """A job that is queued again finds the word with which its last launch has ended."""
    Round(3, exit_code=75, launch="12.1.0").publish(run)
    code, said = on_node(1, run.path.parent)
    assert (code, said) == (3, "launcher: The launcher of the first machine has not come: this one ends.\n")


def test_a_run_of_another_launch_is_not_joined(run: RunDirectory) -> None:
    with held(run):
        Round(3, "head:1", ("abc",), launch="11.0.0").publish(run)
        code, said = on_node(1, run.path.parent, "parallel.timeout=600")
    assert (code, "is held by another launch" in said) == (73, True)


def test_who_leads_tells_the_others_why_there_is_no_run(run: RunDirectory) -> None:
    """They would wait for parallel.timeout, and the job with them; the exit code of the run is that of who leads."""
    RunStatus("done", 4, 16, 0).write(run)
    code, said = on_node(0, run.path.parent)
    assert (code, "holds a run already" in said) == (2, True)
    assert Round.read(run) == Round(0, exit_code=2, launch=MINE)
    began = time.monotonic()
    assert on_node(1, run.path.parent, "parallel.timeout=600") == (0, "")
    assert time.monotonic() - began < 30


def test_a_machine_that_does_not_come_ends_the_launch(run: RunDirectory) -> None:
    code, said = on_node(0, run.path.parent)
    assert code == 3
    assert said == (
        "launcher: 2 machines must be there (launch.nodes 2), and after 1 s (parallel.timeout) there is 1.\n"
    )
    told = Round.read(run)
    assert told is not None
    assert (told.exit_code, told.launch) == (3, MINE)


def test_launchers_of_another_launch_do_not_count(run: RunDirectory) -> None:
    with present(run, MINE) as me, present(run, "11.0.0"):
        together = Together(run, me, NodeRange(2, 2))
        with pytest.raises(TooFewMachinesError):
            together.gathered(Signals(), 0.5, lambda said: None)
    with present(run, MINE) as me, present(run, MINE):
        assert Together(run, me, NodeRange(2, 2)).gathered(Signals(), 0.5, lambda said: None)


def test_a_launcher_counts_once_it_has_agreed_with_who_leads(run: RunDirectory) -> None:
    """One whose recipe differs ends with that, and its machine is waited for still: it is no machine that was lost."""
    with present(run, MINE) as me, present(run, MINE, 1, joined=False) as other:
        with pytest.raises(TooFewMachinesError):
            Together(run, me, NodeRange(2, 2)).gathered(Signals(), 0.5, lambda said: None)
        other.joins()
        assert Together(run, me, NodeRange(2, 2)).gathered(Signals(), 0.5, lambda said: None)


@pytest.mark.parametrize("method", ["torchrun", "accelerate"])
def test_ranks_of_two_machines_train_together(method: str, runs: Path) -> None:
    """As srun starts them, which needs no Slurm: each launcher is told its place."""
    settings = (f"launch.method={method}", "launch.nproc_per_node=1", "train.updates=4", "parallel.timeout=60")
    with ThreadPoolExecutor() as pool:
        codes = list(pool.map(lambda number: on_node(number, runs, *settings), (0, 1)))
    assert [code for code, _ in codes] == [0, 0], codes
    rows = [json.loads(line) for line in (runs / "it" / "metrics.jsonl").read_text().splitlines()]
    assert [row["batch/world_size"] for row in rows] == [2] * 4
