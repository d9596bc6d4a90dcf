"""What is refused of machines that are started by hand, and what is printed of those that are not."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.cli.by_hand import request_by_hand
from launcher.errors import RequestError
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import held
from launcher.runners.address import free_port
from launcher.runners.nodes import present
from launcher.runners.place import Place, place_by_hand
from launcher.runners.rounds import Round
from launcher.runners.supervise import Signals
from tests.processes import ROOT, clean_environment, launcher

MORTAL = ROOT / "tests" / "tasks" / "mortal.yaml"
HERE = "127.0.0.1:29400"
SECOND = ("--nodes", "2", "--node-rank", "1", "--rendezvous", HERE)


def test_flags_give_a_machine_its_place() -> None:
    assert place_by_hand(None, None, None) is None
    assert place_by_hand(3, 2, "[fe80::1]:29400") == Place(2, 3, "[fe80::1]:29400", "[fe80::1]:29400")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((2, 2, "head:29400"), "--node-rank: 2 is none of 2 machines. They are 0 to 1."),
        ((2, -1, "head:29400"), "--node-rank: -1 is none of 2 machines. They are 0 to 1."),
        ((0, 0, "head:29400"), "--nodes: 0 is no number of machines. Give 1 or more."),
        ((2, 1, "head"), "--rendezvous: 'head' is no HOST:PORT. Write"),
        ((2, 1, "head:"), "--rendezvous: 'head:' is no HOST:PORT. Write"),
        ((2, 1, "head:99999"), "--rendezvous: 'head:99999' is no HOST:PORT. Write"),
        ((2, 1, "fe80::1:29400"), "--rendezvous: 'fe80::1:29400' is no HOST:PORT. Write"),
        ((2, 1, "head..one:29400"), "--rendezvous: 'head..one:29400' is no HOST:PORT. Write"),
        ((2, 1, "10.0.0.256:29400"), "--rendezvous: '10.0.0.256:29400' is no HOST:PORT. Write"),
        ((2, 1, "-head:29400"), "--rendezvous: '-head:29400' is no HOST:PORT. Write"),
        ((2, 1, "http://head:1"), "--rendezvous: 'http://head:1' is no HOST:PORT. Write"),
        ((2, None, "head:1"), "--node-rank: is missing: it says which of them this is, from 0. Machines that"),
        ((2, 1, None), "--rendezvous: is missing: it says where machine 0 can be reached, as HOST:PORT. Machines"),
        ((None, 1, "head:1"), "--nodes: is missing: it says how many machines there are. Machines that"),
    ],
)
def test_flags_that_contradict_each_other(flags: tuple[int | None, int | None, str | None], said: str) -> None:
    with pytest.raises(RequestError) as refused:
        place_by_hand(*flags)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def refused_for(*overrides: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(RequestError) as refused:
        request_by_hand(MORTAL, overrides, Place(1, 2, "head:1", "head:1"), environ or {})
    return str(refused.value)


def test_flags_against_the_recipe() -> None:
    assert refused_for("launch.nodes=4") == (
        "command line: launch.nodes: is 4, and --nodes says 2. Leave it out of the recipe, or give --nodes the same."
    )
    elastic = refused_for("launch.nodes=1:2", "batch.micro=4")
    assert elastic.startswith("command line: launch.nodes: machines of an elastic run (1:2) have no places. Leave out")
    in_step = {"SLURM_STEP_ID": "0", "SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2"}
    assert "srun has given this machine its place" in refused_for(environ=in_step)
    request = request_by_hand(MORTAL, ["launch.nodes=2"], Place(1, 2, "head:1", "head:1"), {})
    assert request.plan == request_by_hand(MORTAL, [], Place(1, 2, "head:1", "head:1"), {}).plan
    assert request.plan.topology.world_size == 4


def by_hand(runs: Path, *settings: str) -> tuple[int, str]:
    """The exit code of the second machine's launcher, and its last words."""
    done = launcher("run", str(MORTAL), *SECOND, *settings, "--runs", str(runs), "--run-id", "it")
    return done.returncode, done.stderr


def test_a_machine_whose_recipe_differs_is_refused(runs: Path) -> None:
    shown = launcher("run", str(MORTAL), *SECOND, "--runs", str(runs), "--run-id", "it", "--dry-run")
    plan = re.search(r"plan\.json\.pasted <<'END_OF_FILE'\n(.*?)\nEND_OF_FILE", shown.stdout, re.DOTALL)
    assert plan
    (runs / "it").mkdir()
    run = RunDirectory(runs / "it")
    with held(run):
        run.plan.write_text(plan[1])
        Round(0, launch=HERE).publish(run)
        code, said = by_hand(runs, "optimizer.lr=0.02")
        assert (code, said.count("\n")) == (2, 1)
        assert said.startswith("launcher: command line: optimizer.lr: the run was begun with 0.01, not 0.02.")
        assert "launch.nproc_per_node: the run has 2, not 1" in by_hand(runs, "launch.nproc_per_node=1")[1]


def test_a_place_is_taken_once(runs: Path) -> None:
    (runs / "it").mkdir()
    with present(RunDirectory(runs / "it"), HERE, 1):
        code, said = by_hand(runs)
    assert code == 2
    assert re.fullmatch(
        r"launcher: --node-rank: 1 is taken by process \d+ on \S+ Give each machine a number of its own\.\n", said
    )


def test_the_last_word_of_a_launch_before_is_none_of_this_one(runs: Path) -> None:
    """Launches by hand are called by where they meet, which is the same each time."""
    (runs / "it").mkdir()
    run = RunDirectory(runs / "it")
    for before in (Round(3, exit_code=75, launch=HERE), Round(3, "x:1", ("a",), launch=HERE)):
        before.publish(run)
        code, said = by_hand(runs, "parallel.timeout=1")
        assert code == 3
        assert said == (
            f"launcher: The launcher of the first machine has not come, or {runs} is not the folder that it has: "
            "this one ends.\n"
        )


def test_the_dry_run_of_a_machine_has_its_place(runs: Path) -> None:
    for method, flags in (
        (
            "torchrun",
            "torchrun --nnodes=2 --node-rank=1 --master-addr=127.0.0.1 --master-port=29400 "
            "--rdzv-id=it.127.0.0.1:29400.1 --rdzv-conf=timeout=300 --nproc-per-node=2 ",
        ),
        (
            "accelerate",
            f"accelerate launch --config_file {runs}/it/accelerate.yaml --machine_rank=1 --main_process_ip=127.0.0.1 "
            "--main_process_port=29400 --rdzv_conf=timeout=300 --log_dir ",
        ),
    ):
        arguments = (f"launch.method={method}", "--runs", str(runs), "--run-id", "it", "--dry-run")
        shown = launcher("run", str(MORTAL), *SECOND, *arguments)
        assert flags in shown.stdout, shown.stderr
    unnamed = launcher("run", str(MORTAL), *SECOND, "--dry-run")
    assert (unnamed.returncode, "--run-id: is missing" in unnamed.stderr) == (2, True)
    assert not (runs / "it").exists()


def reached(rank: int, endpoint: str, patience: float = 60) -> bool:
    return Place(rank, 2, endpoint, endpoint).reach(patience, Signals(), print)


def test_a_rendezvous_that_cannot_be_is_refused() -> None:
    with socket.create_server(("", 0)) as listening:
        port = listening.getsockname()[1]
        for rank, endpoint, said in (
            (0, f"127.0.0.1:{port}", f"port {port} of this machine is in use. Choose another one, on all machines."),
            (0, "192.0.2.1:29400", "192.0.2.1 is not this machine, whose --node-rank is 0. Write what others call it."),
        ):
            with pytest.raises(RequestError) as refused:
                reached(rank, endpoint)
            assert str(refused.value).startswith(f"--rendezvous: {said}")
        for rank, endpoint in ((0, f"127.0.0.1:{free_port()}"), (1, f"127.0.0.1:{port}"), (1, "192.0.2.1:1")):
            assert reached(rank, endpoint)


def test_a_name_that_is_not_known_yet_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kubernetes gives a pod its name as it starts: another pod, or the very one, may ask before."""
    answers = iter([None, None, None, "192.0.2.1", "127.0.0.1"])
    own = socket.gethostname().partition(".")[0]

    def known(host: str, *more: object, **named: object) -> list[tuple[object, ...]]:
        assert host == f"{own}.mine"
        if (address := next(answers)) is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (address, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    assert reached(0, f"{own}.mine:{free_port()}")  # not before it is this machine's: the answer before is outdated
    said = f"waiting for {own}.mine, which is not known here yet: Name or service not known\n"
    assert capsys.readouterr().out == said
    assert next(answers, "none left") == "none left"


UNKNOWN = ("run", str(MORTAL), "--nodes", "2", "--rendezvous", "nowhere.invalid:29400", "--run-id", "it")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_name_that_nobody_gets_to_know(rank: int, runs: Path) -> None:
    """Exit code 3, after which Kubernetes tries again, and not 2."""
    flags = ("--node-rank", str(rank), "--runs", str(runs))
    done = launcher(*UNKNOWN, *flags, "parallel.timeout=1")
    assert done.returncode == 3
    assert re.fullmatch(
        r"launcher: nowhere\.invalid \(--rendezvous\) is not known here yet.*, after 1 s \(parallel\.timeout\)\. "
        r"Start the machine with --node-rank 0, or write what it is called here\.\n",
        done.stderr,
    )
    assert not (runs / "it").exists()
    began = time.monotonic()
    assert launcher(*UNKNOWN, *flags, "--dry-run").returncode == 0
    assert time.monotonic() - began < 30  # the default of parallel.timeout is 600 seconds


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting(number: signal.Signals, runs: Path) -> None:
    command = [sys.executable, "-u", "-m", "launcher", *UNKNOWN, "--node-rank", "1", "--runs", str(runs)]
    with subprocess.Popen(command, env=clean_environment(), cwd=ROOT, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout
        assert waiting.stdout.readline().startswith("waiting for nowhere.invalid, which is not known here yet")
        waiting.send_signal(number)
        assert waiting.wait(5) == 130
    assert not (runs / "it").exists()
