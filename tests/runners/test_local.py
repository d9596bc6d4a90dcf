"""Real runs, ended in every way: the cause in one paragraph, the right exit code, and nothing left running."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.table import Kind
from tests.processes import ROOT, clean_environment, launcher, processes_with, wait_until

TINY = "tests/tasks/tiny.yaml"


def slow(*values: Any) -> Any:
    """One more way of the same, for `make test-all`."""
    return pytest.param(*values, marks=pytest.mark.long)


def run_tiny(runs: Path, *overrides: str, run_id: str = "it") -> subprocess.CompletedProcess[str]:
    return launcher("run", TINY, *overrides, "--runs", str(runs), "--run-id", run_id)


class Started:
    """A run in the background, stopped where its task says that it has come."""

    def __init__(self, runs: Path, fault: str, *overrides: str, env: Mapping[str, str] | None = None) -> None:
        self.fifo = runs / "told"
        os.mkfifo(self.fifo)
        arguments = [
            f"task.args.fault={fault}",
            "task.args.at=3",
            f"task.args.tell={self.fifo}",
            "train.updates=1000000",
        ]
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "launcher",
                "run",
                TINY,
                *arguments,
                *overrides,
                "--runs",
                str(runs),
                "--run-id",
                "it",
            ],
            env=clean_environment(**(env or {})),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.worker, self.agent = map(int, self.fifo.read_text().split())

    def end(self, *signals: int) -> subprocess.CompletedProcess[str]:
        for number in signals:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return subprocess.CompletedProcess([], self.process.returncode, out, err)


def status(runs: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((runs / "it" / "status.json").read_text())
    return found


def rows(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (runs / "it" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("method", "ranks"), [("torchrun", 1), slow("accelerate", 1), slow("accelerate", 2)])
def test_a_run_ends_with_its_files(runs: Path, method: str, ranks: int) -> None:
    done = run_tiny(runs, f"launch.method={method}", f"launch.nproc_per_node={ranks}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(runs) == {"state": "done", "update": 5, "samples_seen": 80, "exit_code": 0, "failure": None}
    names = {path.name for path in (runs / "it").iterdir()}
    assert {"recipe.yaml", "plan.json", "metrics.jsonl", "status.json", "logs", "report.html"} <= names
    assert {f"rank_{rank}.log" for rank in range(ranks)} <= {path.name for path in (runs / "it" / "logs").iterdir()}
    assert [row["train/global_step"] for row in rows(runs)] == [1, 2, 3, 4, 5]
    assert {row["batch/world_size"] for row in rows(runs)} == {ranks}
    assert "effective global batch" in done.stdout


@pytest.mark.long
def test_batch_and_rate_follow_the_batch_schedule(runs: Path) -> None:
    schedule = "batch.schedule=[{global: 5, updates: 3}, {global: 12, samples: 30}]"
    scaling = ("lr_scaling.rule=linear", "lr_scaling.reference_batch=16")
    done = run_tiny(runs, schedule, *scaling, "train.updates=null", "train.epochs=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "effective global batch: from 5 in 2 stages to 16 = 2 × 2 micro-steps of 4 samples" in done.stdout
    # 64 samples an epoch: 13 are left for the first window of the last stage.
    assert [row["batch/global_samples"] for row in rows(runs)] == [5, 5, 5, 12, 12, 12, 13, 16, 16, 16, 16]
    rates = [0.05 * batch / 16 for batch in [5] * 3 + [12] * 3 + [16] * 5]
    assert [row["train/learning_rate"] for row in rows(runs)] == pytest.approx(rates)
    assert [row["train/global_step"] for row in rows(runs) if "eval/loss" in row] == [7, 11]


@pytest.mark.fault(
    Kind.PROCESS,
    "a rank raises an exception",
    by="in the loss",
    outcome="named with its rank, update and log, also in status.json; nothing is left running",
)
@pytest.mark.parametrize(("method", "rank"), [("torchrun", 0), slow("accelerate", 1), slow("torchrun", 1)])
def test_an_exception_is_named_with_its_rank_and_log(runs: Path, method: str, rank: int) -> None:
    done = run_tiny(
        runs, f"launch.method={method}", "task.args.fault=raise", f"task.args.rank={rank}", "task.args.at=5"
    )
    assert done.returncode == 3
    log = runs / "it" / "logs" / f"rank_{rank}.log"
    assert done.stderr == (
        f"launcher: Rank {rank} failed in update 3: ValueError: bad pixel in sample 17. "
        f"The other ranks stopped because of it. Its log: {log}\n"
    )
    assert "Traceback" not in done.stdout
    assert "ValueError: bad pixel in sample 17" in log.read_text()
    assert status(runs)["state"] == "failed"
    assert status(runs)["exit_code"] == 3
    failure = {"rank": rank, "exception": "ValueError: bad pixel in sample 17", "log": str(log)}
    assert status(runs)["failure"] == failure


@pytest.mark.long
def test_an_exception_in_the_only_rank(runs: Path) -> None:
    done = run_tiny(runs, "launch.nproc_per_node=1", "task.args.fault=raise")
    assert done.returncode == 3
    assert done.stderr.startswith("launcher: Rank 0 failed in update 1: ValueError: bad pixel in sample 17. Its log: ")


@pytest.mark.fault(
    Kind.PROCESS,
    "a rank is killed or crashes",
    by="SIGKILL, SIGSEGV in the loss",
    outcome="named with its rank, also in status.json; nothing is left running",
)
@pytest.mark.parametrize(
    ("fault", "rank", "words"),
    [
        ("sigkill", 1, "was killed by SIGKILL"),
        ("segfault", 0, "was killed by SIGSEGV"),
        slow("sigkill", 0, "was killed by SIGKILL"),
        slow("segfault", 1, "was killed by SIGSEGV"),
    ],
)
def test_a_killed_rank_is_the_cause_and_not_its_victims(runs: Path, fault: str, rank: int, words: str) -> None:
    done = run_tiny(runs, f"task.args.fault={fault}", f"task.args.rank={rank}", "task.args.at=5")
    assert done.returncode == 3
    assert f"launcher: Rank {rank} {words}" in done.stderr
    assert status(runs)["failure"]["rank"] == rank


@pytest.mark.fault(
    Kind.PROCESS,
    "a rank leaves with an exit code",
    by="`sys.exit(7)`",
    outcome="a failure, named with its rank",
)
def test_a_rank_that_leaves_is_a_failure(runs: Path) -> None:
    done = run_tiny(runs, "task.args.fault=exit", "task.args.rank=1", "task.args.at=5")
    assert done.returncode == 3
    assert "Rank 1 failed in update 3: SystemExit: 7" in done.stderr


@pytest.mark.long
def test_numbers_that_are_not_so_are_a_wrong_request(runs: Path) -> None:
    done = run_tiny(runs, "data.samples=65")
    assert done.returncode == 2
    assert "data.samples: the recipe says 65, but there are 64. Set data.samples=64." in done.stderr


@pytest.mark.fault(
    Kind.SIGNAL,
    "a signal to the launcher",
    by="SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2",
    outcome="the update is finished and saved, exit code 75",
)
@pytest.mark.parametrize(
    ("method", "number"),
    [
        ("torchrun", signal.SIGINT),
        slow("accelerate", signal.SIGTERM),
        slow("torchrun", signal.SIGTERM),
        slow("torchrun", signal.SIGHUP),
        slow("accelerate", signal.SIGINT),
        slow("torchrun", signal.SIGUSR1),
        slow("torchrun", signal.SIGUSR2),
    ],
)
def test_a_signal_ends_the_run_after_its_update(runs: Path, number: signal.Signals, method: str) -> None:
    done = Started(runs, "tell", f"launch.method={method}").end(number)
    assert done.returncode == 75, done.stdout + done.stderr
    assert done.stderr == ""
    assert status(runs)["state"] == "preempted"
    assert (runs / "it" / "checkpoints" / f"step_{status(runs)['update']:08d}").is_dir()
    assert status(runs)["update"] == len(rows(runs)) >= 1
    assert f"{number.name}: ending at the next update" in done.stdout


@pytest.mark.long
def test_a_signal_to_a_single_process_of_accelerate(runs: Path) -> None:
    started = Started(runs, "tell", "launch.method=accelerate", "launch.nproc_per_node=1")
    assert started.end(signal.SIGTERM).returncode == 75
    assert status(runs)["update"] == len(rows(runs)) >= 1


@pytest.mark.fault(
    Kind.SIGNAL,
    "a second signal",
    by="SIGINT twice",
    outcome="the end at once",
)
def test_a_second_signal_ends_a_run_that_hangs(runs: Path) -> None:
    started = Started(runs, "hang")
    started.process.send_signal(signal.SIGINT)
    assert started.process.stdout is not None
    for line in started.process.stdout:
        if line.startswith("SIGINT: ending"):
            break
    assert started.end(signal.SIGINT).returncode == 130


@pytest.mark.parametrize("method", ["torchrun", slow("accelerate")])
def test_workers_die_with_a_launcher_that_is_killed(runs: Path, method: str) -> None:
    started = Started(runs, "hang", f"launch.method={method}")
    workers = [os.pidfd_open(pid) for pid in (started.worker, started.agent)]
    started.process.kill()
    started.process.communicate(timeout=10)
    for worker in workers:
        ended(worker)


def ended(pidfd: int) -> None:
    """Wait until a process has ended, but not for long."""
    try:
        assert select.select([pidfd], [], [], 2.0)[0], "still running"
    finally:
        os.close(pidfd)


@pytest.mark.fault(
    Kind.SIGNAL,
    "a signal while loading processes work",
    by="SIGTERM, which torchrun passes to the whole session",
    outcome="the update gets its data, is finished and saved",
)
def test_loading_processes_outlive_the_signal(runs: Path) -> None:
    """torchrun signals the whole session of a rank, loading processes too: the update still gets its data."""
    done = Started(runs, "tell", "data.workers=2").end(signal.SIGTERM)
    assert (done.returncode, done.stderr) == (75, "")
    assert status(runs)["update"] == len(rows(runs)) >= 1


@pytest.mark.long
def test_a_signal_that_was_ignored_at_the_start_is_ignored(runs: Path) -> None:
    """As under nohup."""
    ignoring = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited by the command
    try:
        started = Started(runs, "tell")
    finally:
        signal.signal(signal.SIGHUP, ignoring)
    done = started.end(signal.SIGHUP, signal.SIGTERM)
    assert done.returncode == 75
    assert "SIGHUP" not in done.stdout


@pytest.mark.fault(
    Kind.PROCESS,
    "the launcher dies as its ranks start",
    by="SIGKILL",
    outcome="nothing is left running",
)
@pytest.mark.parametrize("ranks", [1, slow(2)])
def test_nothing_trains_on_after_a_launcher_that_was_killed_at_the_start(runs: Path, ranks: int) -> None:
    """Before the workers could ask the kernel to end with their parent."""
    command = [sys.executable, "-m", "launcher", "run", TINY, "train.updates=1000000", f"launch.nproc_per_node={ranks}"]
    process = subprocess.Popen([*command, "--runs", str(runs), "--run-id", "it"], env=clean_environment(), cwd=ROOT)
    wait_until(lambda: any("launcher.worker.entry" in command_line(pid) for pid in processes_with(str(runs))))
    process.kill()
    process.wait()
    wait_until(lambda: not list(processes_with(str(runs))))


@pytest.mark.fault(
    Kind.SIGNAL,
    "a signal before the first update",
    by="SIGTERM while torchrun starts",
    outcome="the end at once, long before the grace is over",
)
def test_a_signal_at_the_start_ends_the_run(runs: Path) -> None:
    """Before torchrun has its handlers."""
    command = [sys.executable, "-m", "launcher", "run", TINY, "train.updates=1000000"]
    process = subprocess.Popen([*command, "--runs", str(runs), "--run-id", "it"], env=clean_environment(), cwd=ROOT)
    wait_until(lambda: (runs / "it" / "logs" / "agent.log").exists() and len(list(processes_with(str(runs)))) > 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=25) == 130  # long before the grace of 30 s is over
    assert status(runs)["state"] == "interrupted"


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@pytest.mark.long
def test_a_reader_that_leaves_does_not_end_the_training(runs: Path) -> None:
    """As in `launcher run ... | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "launcher", "run", TINY, "--runs", str(runs), "--run-id", "it"]
    done = subprocess.run(
        command, env=clean_environment(), cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert status(runs)["state"] == "done"


@pytest.mark.long
def test_a_terminal_that_knows_ascii_alone_is_enough(runs: Path) -> None:
    done = launcher("run", TINY, "--runs", str(runs), "--run-id", "it", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "16 = 2 ? 2 micro-steps" in done.stdout


@pytest.mark.long
def test_an_agent_that_is_killed_is_said(runs: Path) -> None:
    started = Started(runs, "hang", "launch.restarts=0")
    worker = os.pidfd_open(started.worker)
    os.kill(started.agent, signal.SIGKILL)
    ended(worker)
    done = started.end()
    assert done.returncode == 3
    assert "torchrun or accelerate was killed by SIGKILL" in done.stderr
    assert status(runs)["state"] == "failed"


@pytest.mark.fault(
    Kind.DIRECTORY,
    "two launches in one run directory",
    by="the second while the first trains",
    outcome="the second is refused, names the holder, exit code 73",
)
@pytest.mark.long
def test_a_run_directory_has_one_writer(runs: Path) -> None:
    started = Started(runs, "hang")
    second = run_tiny(runs)
    assert second.returncode == 73
    assert f"is held by process {started.process.pid} on" in second.stderr
    started.end(signal.SIGKILL)
    third = run_tiny(runs)
    assert third.returncode == 2
    assert "holds a run already. Go on with it by --resume auto, or choose another --run-id." in third.stderr


@pytest.mark.fault(
    Kind.REQUEST,
    "names that a shell or a file system takes apart",
    by="`../x`, `a/b`, `-rf`, `$(id)`, none, 300 characters, a letter beyond ASCII",
    outcome="refused, exit code 2; no shell anywhere",
)
@pytest.mark.parametrize("run_id", ["../x", "a/b", "-rf", "$(id)", "", "x" * 300, "ü"])
def test_a_run_id_is_a_name(runs: Path, run_id: str) -> None:
    done = launcher("run", TINY, "--runs", str(runs), f"--run-id={run_id}")
    assert done.returncode == 2
    assert "--run-id" in done.stderr
    assert list(runs.iterdir()) == []


def test_a_runs_folder_that_cannot_be_made(runs: Path) -> None:
    (runs / "file").write_text("")
    done = launcher("run", TINY, "--runs", str(runs / "file"))
    assert done.returncode == 2
    assert done.stderr.startswith("launcher: ")
    assert "cannot be made" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.fault(
    Kind.WORLD,
    "more ranks than were planned",
    by="torchrun by hand, with another number",
    outcome="refused before the first update",
)
def test_a_world_that_differs_from_the_plan_is_refused(runs: Path) -> None:
    """The pasted command with another number of ranks: nothing trains with numbers made for another world."""
    shown = launcher("run", TINY, "--dry-run", "--runs", str(runs), "--run-id", "it").stdout
    wrong = shown.replace("--nproc-per-node=2", "--nproc-per-node=3")
    done = subprocess.run(
        ["bash", "-c", wrong], env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    # The first rank to see it ends the others, which may not have opened their logs.
    logs = "".join(log.read_text() for log in (runs / "it" / "logs").glob("rank_*.log"))
    assert "the plan is for 2 ranks, but 3 were started" in logs
    assert not (runs / "it" / "metrics.jsonl").exists()


@pytest.mark.long
def test_without_checkpoints_a_stopped_run_was_interrupted(runs: Path) -> None:
    done = Started(runs, "tell", "checkpoint.minutes=0").end(signal.SIGTERM)
    assert done.returncode == 130
    assert status(runs)["state"] == "interrupted"
    assert not (runs / "it" / "checkpoints").exists()
