"""Elastic runs, as far as no training is needed: what is started, what is planned, who counts as there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.errors import RequestError
from launcher.launch.build import build_launch
from launcher.launch.spec import LaunchSpec
from launcher.launch.torchrun import Meeting
from launcher.linux import end_with_parent
from launcher.plan.planner import Plan, make_plan
from launcher.plan.topology import Machine, Topology, choose_topology
from launcher.plan.worlds import possible_worlds, refuse_impossible_worlds
from launcher.recipe.load import load_recipe
from launcher.recipe.node_range import NodeRange
from launcher.recipe.schema import Recipe
from launcher.rundir.failure import AgentRecord, FailureRecord, WorkerDeath, read_failures
from launcher.rundir.heartbeat import Beat, BeatFile
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import held, is_held
from launcher.runners.follower import Follower
from launcher.runners.nodes import nodes_of, present
from launcher.runners.restarts import RestartBudget
from launcher.runners.rounds import Round
from launcher.runners.supervise import Signals
from launcher.runners.together import Together
from launcher.runners.watch import Limits, Watch
from launcher.worker.dist_env import DistEnv
from tests.processes import ROOT, clean_environment, launcher

ELASTIC = ROOT / "tests" / "tasks" / "elastic.yaml"


def elastic(*overrides: str) -> Recipe:
    return load_recipe(ELASTIC, overrides).recipe


def plan_of(recipe: Recipe) -> Plan:
    return make_plan(recipe, choose_topology(recipe.launch, Machine(cpus=8, gpus=0)))


def test_a_round_is_torchruns_own_elastic_rendezvous(tmp_path: Path) -> None:
    meeting = Meeting("head:4321", "it.7", NodeRange(1, 3), address="me", host=False, node="abc")
    spec = build_launch(plan_of(elastic()), RunDirectory(tmp_path), Machine(8, 0), {}, "python", meeting=meeting)
    assert spec.argv == (
        "python", "-m", "launcher.worker.agent", "torchrun", "--nnodes=1:3", "--rdzv-backend=c10d",
        "--rdzv-endpoint=head:4321", "--rdzv-id=it.7",
        "--rdzv-conf=join_timeout=300,last_call_timeout=30,is_host=0", "--local-addr=me", "--nproc-per-node=1",
        "--max-restarts=0", f"--log-dir={tmp_path}/logs/agent", "-m", "launcher.worker.entry",
    )  # fmt: skip
    assert spec.env["LAUNCHER_NODE"] == "abc"


def test_every_number_of_machines_is_planned_before_the_start() -> None:
    recipe = elastic("launch.nodes=1:5")
    topology = Topology(nodes=1, nproc_per_node=1, device="cpu")
    assert possible_worlds(recipe, topology) == [1, 2, 3, 4, 5]
    with pytest.raises(RequestError) as refused:
        refuse_impossible_worlds(recipe, topology)  # the recipe is exact, with 4 virtual ranks
    assert str(refused.value) == (
        "launch.nodes: cannot be 1:5: with 5 machines, an exact run with 4 virtual ranks goes on 1 to 4 ranks, not on "
        "5. Set launch.nodes=1:4."
    )
    refuse_impossible_worlds(elastic(), topology)


def test_workers_plan_again_for_the_world_that_they_find() -> None:
    plan = plan_of(elastic())
    found = DistEnv(rank=2, local_rank=0, world_size=3).held_against(plan)
    assert (found.topology.nodes, found.topology.world_size) == (3, 3)
    assert found.batch.global_ == plan.batch.global_
    fixed = plan_of(elastic("launch.nodes=1"))
    with pytest.raises(RequestError, match="the plan is for 1 ranks, but 3 were started"):
        DistEnv(rank=2, local_rank=0, world_size=3).held_against(fixed)
    with pytest.raises(RequestError):  # three ranks on machines of two are no plan of ours
        DistEnv(rank=2, local_rank=0, world_size=3, local_world_size=2).held_against(plan)


def test_a_launcher_is_there_for_as_long_as_its_process_lives(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    program = (
        "import sys, pathlib\n"
        "from launcher.rundir.layout import RunDirectory\n"
        "from launcher.runners.nodes import present\n"
        "with present(RunDirectory(pathlib.Path(sys.argv[1]))) as node: print(node.name, flush=True); sys.stdin.read()"
    )
    with (
        present(run) as me,
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=end_with_parent,
        ) as other,
    ):
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        together = Together(run, me, NodeRange(1, 4))
        together.round = (me.name,)
        assert together.changed()
        assert nodes_of(run)[name].process.startswith(f"process {other.pid} on ")
        me.has_ended(7)
        me.leaves()
        assert (nodes_of(run)[me.name].ended, nodes_of(run)[me.name].leaving) == (7, True)
        other.kill()
        other.wait()
        assert list(nodes_of(run)) == [me.name]
        assert not Together(run, me, NodeRange(1, 4)).seen().get(name)
    assert nodes_of(run) == {}


def test_who_takes_part_stays_and_there_is_room_for_so_many_only(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with present(run) as first, present(run) as second, present(run) as third:
        full = Together(run, second, NodeRange(1, 2))
        for other in (first, third):
            full.round = (second.name, other.name)
            assert not full.changed()  # another one waits, and there is no room
        third.leaves()
        again = Together(run, second, NodeRange(1, 2))
        again.round = (second.name, third.name)
        assert again.changed()  # there is room for the first


def test_what_the_leader_tells_is_forgotten_with_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    told = Round(3, "head:1", ("a", "b"))
    assert not is_held(run)
    with held(run):
        assert is_held(run)
        told.publish(run)
        assert Round.read(run) == told
    assert not is_held(run)
    assert Round.read(run) == told  # it says to the others how the run has ended
    with held(run):
        assert Round.read(run) is None


LEFT_OUT = """
import sys
from pathlib import Path
from launcher.launch.spec import LaunchSpec
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import held
from launcher.runners.follower import Follower, LeftOutError
from launcher.runners.nodes import nodes_of, present
from launcher.runners.rounds import Round
from launcher.runners.supervise import Signals

run, started = RunDirectory(Path(sys.argv[1])), []

def fails(round_):
    started.append(round_.number)
    return LaunchSpec((sys.executable, "-c", "raise SystemExit(1)"), {}, {})

with held(run), present(run) as me:
    Round(3, "head:1", ("leader", me.name)).publish(run)
    follower = Follower(run, me, Signals(), fails, grace=5, heartbeat=0, left_out=1)
    try:
        follower.follow()
    except LeftOutError as left:
        print(left)
    print(started, nodes_of(run)[me.name].ended)
    Round(3, exit_code=7).publish(run)
print(follower.follow())
"""


def test_a_machine_whose_part_fails_while_the_others_go_on_leaves(tmp_path: Path) -> None:
    """It takes part once: what fails here is not started again and again in the same round."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OUT, str(tmp_path)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    left, *told = done.stdout.splitlines()
    assert left.startswith("This machine's part of the run has failed, and the others go on."), done.stderr
    assert told == ["[3] 3", "7"]  # the end is told also when the leader has let go by now


def test_a_round_that_cannot_be_read_is_not_over(tmp_path: Path) -> None:
    """A disk may fail once; who leads on after another one has told of a round of its own."""
    run = RunDirectory(tmp_path)
    told = Round(3, "head:1", ("leader", "me"))

    def nothing(round_: Round) -> LaunchSpec:
        raise NotImplementedError

    with present(run) as me, held(run):
        follower = Follower(run, me, Signals(), nothing, grace=5, heartbeat=0)
        told.publish(run)
        assert not follower._is_over(told)
        run.round.write_text("{")
        assert not follower._is_over(told)
        Round(4).publish(run)
        assert follower._is_over(told)
    told.publish(run)
    assert follower._is_over(told)  # nobody leads


def test_processes_of_another_machine_are_not_looked_at(tmp_path: Path) -> None:
    """But how far their ranks are is: both stall, and theirs is the one that is behind."""
    run = RunDirectory(tmp_path)
    ours, theirs = os.getpid(), os.getppid()
    BeatFile(run, 0).write(Beat(0, ours, 1, 1, 3, "computed", 1.0, "ours"))
    BeatFile(run, 1).write(Beat(1, theirs, 1, 1, 3, "computing", 0.5, "theirs"))
    watch = Watch(run, Limits(heartbeat=30, stall=0.5), "ours")
    deadline = time.monotonic() + 20
    while (culprit := watch.hanging(os.getpid())) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert culprit.rank == 1
    assert watch.processes() == [ours]


def test_what_the_agents_of_all_machines_saw_is_put_together(tmp_path: Path) -> None:
    """The record of a rank that lost its peers, of one machine, is not the cause: the death on the other is."""
    run = RunDirectory(tmp_path)
    AgentRecord((WorkerDeath(1, -9),)).write(run)
    AgentRecord((WorkerDeath(0, 1),)).write(run)
    FailureRecord(0, 5, "RuntimeError", "Connection closed by peer", 3).write(run)
    assert read_failures(run).first() == WorkerDeath(1, -9)


def test_a_machine_that_was_lost_costs_a_try_also_before_the_first_checkpoint() -> None:
    budget = RestartBudget(2)
    assert [budget.take(0, from_start=True) for _ in range(3)] == [1, 0, None]
    assert RestartBudget(2).take(0) is None


def test_the_plan_shows_the_worlds_and_the_dry_run_what_is_started(tmp_path: Path) -> None:
    shown = launcher("run", str(ELASTIC), "--dry-run", "--runs", str(tmp_path), "--run-id", "it")
    assert "--nnodes=1:4 --rdzv-backend=c10d --rdzv-endpoint=" in shown.stdout
    assert "--rdzv-id=it" in shown.stdout
    planned = launcher("plan", str(ELASTIC))
    assert "(1 machine × 1; up to 4 may come and go, and the global batch stays)" in " ".join(planned.stdout.split())
    rows = planned.stdout.partition("On other numbers of ranks")[2].splitlines()[2:6]
    assert [row.split()[:2] for row in rows] == [[str(world), "22"] for world in (1, 2, 3, 4)]
