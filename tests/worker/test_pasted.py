"""A command that was pasted takes its run over, or leaves it alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from launcher.errors import RunDirectoryHeldError
from launcher.plan.planner import Plan, make_plan
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.rundir.generation import Generation, StaleWriterError, read_generation, take_over
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import held, is_held
from launcher.worker.dist_env import DistEnv
from launcher.worker.pasted import claimed
from launcher.worker.preparation import prepared
from tests.faults.table import Kind
from tests.processes import ROOT, clean_environment

LIVE = pytest.mark.fault(
    Kind.DIRECTORY,
    "a dry run is pasted whose run trains",
    by="the shell text of `--dry-run`, with the id of the run",
    outcome="refused, names the holder, exit code 73; no file of the run is changed",
)


def plan_of(**launch: object) -> Plan:
    task = {"entry": f"{ROOT}/tests/tasks/tiny.py:Tiny"}
    recipe = Recipe.model_validate(
        {"name": "it", "task": task, "batch": {"global": 16, "micro": 4}, "launch": launch, "train": {"updates": 2}}
    )
    return make_plan(recipe, Topology(nodes=1, nproc_per_node=1, device="cpu"))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Two launches have had it, and a command was pasted for it."""
    run = RunDirectory(tmp_path)
    take_over(run)
    take_over(run)
    paste(run, plan_of())
    run.plan.write_text("that of the launch")
    return run


def paste(run: RunDirectory, plan: Plan) -> None:
    (run.path / "plan.json.pasted").write_text(plan.to_json())
    (run.path / "recipe.yaml.pasted").write_text("pasted")


def test_a_run_that_nobody_holds_is_taken_over(run: RunDirectory) -> None:
    with claimed(run) as (_, environment):
        assert is_held(run)
        assert environment == {"LAUNCHER_GENERATION": "3"}
        assert Plan.model_validate_json(run.plan.read_text()) == plan_of()
        assert run.recipe.read_text() == "pasted"
    assert read_generation(run) == 3
    assert list(run.path.glob("*.pasted")) == []


@LIVE
def test_a_run_that_is_held_is_left_alone(run: RunDirectory) -> None:
    with held(run), pytest.raises(RunDirectoryHeldError, match="is held by process"), claimed(run):
        pass
    assert run.plan.read_text() == "that of the launch"
    assert not run.recipe.exists()
    assert read_generation(run) == 2
    assert list(run.path.glob("*.pasted")) == []


def test_the_machines_of_an_elastic_run_hold_it_together(run: RunDirectory) -> None:
    told: list[Mapping[str, str]] = []
    paste(run, plan_of(nodes="1:2", nproc_per_node=1))
    with claimed(run) as (_, first), claimed(run) as (_, second):
        told += first, second
        with pytest.raises(RunDirectoryHeldError), held(run):
            pass
    assert told == [{"LAUNCHER_GENERATION": "2"}] * 2


@LIVE
def test_an_agent_without_a_launcher_refuses_a_run_that_is_held(run: RunDirectory) -> None:
    command = [sys.executable, "-m", "launcher.worker.agent", "torchrun", "--nproc-per-node=1", "no.py"]
    with held(run):
        environment = clean_environment(LAUNCHER_RUN_DIR=str(run.path))
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 73, done.stderr
    assert done.stderr.startswith(f"launcher: {run.path} is held by process ")


def test_no_plan_is_renewed_by_a_launch_that_was_replaced(run: RunDirectory) -> None:
    env = DistEnv(rank=0, local_rank=0, world_size=1)
    with pytest.raises(StaleWriterError), prepared(plan_of(), run, env, Generation(run, 1)):
        pass
    assert run.plan.read_text() == "that of the launch"
