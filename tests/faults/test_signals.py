"""Signals at awkward moments: what was committed stays whole, and the run that goes on comes to the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from launcher.rundir.checkpoints import Checkpoints
from launcher.rundir.layout import RunDirectory
from launcher.rundir.status import RunStatus
from launcher.runners.outcome import not_begun
from tests.faults.runs import Run, sample_of
from tests.faults.table import Kind
from tests.processes import ROOT, clean_environment, processes_with

LATER = sample_of(6, rank=1, micro_step=1)


def started(it: Run, *settings: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "launcher", *it.arguments(*settings)],
        env={**clean_environment(), **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait for what the system has no event for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def ended(process: subprocess.Popen[str], *codes: int) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode in codes, out + err
    return out, err


def newest(it: Run) -> int:
    """The update of the newest checkpoint, which is verified."""
    found = Checkpoints(RunDirectory(it.path), print).newest()
    return found.update if found else 0


@pytest.mark.fault(
    Kind.SIGNAL,
    "a second signal",
    by="SIGTERM twice, SIGINT twice, while a rank hangs",
    outcome="the end at once; the last checkpoint is whole, and the run goes on from it as if undisturbed",
)
@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_leaves_the_last_checkpoint_whole(it: Run, whole: Run, number: signal.Signals) -> None:
    faults = it.faults({LATER: "waits"})
    process = started(it, *faults)
    wait_until((it.notes / "waits").exists)
    process.send_signal(number)
    assert process.stdout is not None
    while not process.stdout.readline().startswith(f"{number.name}: ending"):
        pass
    process.send_signal(number)
    second = time.monotonic()
    ended(process, 75, 130)
    assert time.monotonic() - second < 20  # long before the grace of 60 s is over
    assert newest(it) == 4
    assert it.launch(*faults, "--resume", "auto").returncode == 0
    assert it.result() == whole.result()


@pytest.mark.fault(
    Kind.SIGNAL,
    "a signal while a run is taken up, before its ranks are started",
    by="SIGUSR1 while the launcher reads the plan of the launch before",
    outcome="nothing is started; exit code 75 where there is a checkpoint, 130 where there is none",
)
@pytest.mark.parametrize(("updates", "code"), [(0, 130), pytest.param(5, 75, marks=pytest.mark.long)])
def test_a_signal_before_the_ranks_are_started(it: Run, updates: int, code: int) -> None:
    """In a fork, which leaves the status of the run as it was, for it has made no update."""
    if updates:
        assert it.launch(f"train.updates={updates}").returncode == 0
    it.path.mkdir(exist_ok=True)
    run = RunDirectory(it.path)
    RunStatus("failed", exit_code=3).write(run)
    plan = run.plan.read_text() if updates else "{}"
    run.plan.unlink(missing_ok=True)
    os.mkfifo(run.plan)
    process = started(it, f"train.updates={updates or 5}", "--resume", "auto", "--fork")
    with run.plan.open("w") as fifo:  # opened as soon as it is read
        run.plan.unlink()
        if updates:
            run.plan.write_text(plan)
        process.send_signal(signal.SIGUSR1)
        fifo.write(plan)
    out, _ = ended(process, code)
    assert "SIGUSR1: ending, before anything was started" in out
    status = RunStatus.read(run)
    assert status is not None
    assert (status.state, status.exit_code) == ("failed", 3)


def test_a_launch_that_was_not_begun_says_so(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert not_begun(run).exit_code == 130
    status = RunStatus.read(run)
    assert status is not None
    assert (status.state, status.exit_code) == ("interrupted", 130)
    assert not list(run.logs.glob("rank_*.log"))


@pytest.mark.fault(
    Kind.SIGNAL,
    "an update takes longer than the grace",
    by="SIGTERM while a rank hangs",
    outcome="the end when the grace is over; the run goes on from its last checkpoint as if undisturbed",
)
@pytest.mark.long
def test_the_grace_is_the_longest_that_an_end_takes(it: Run, whole: Run) -> None:
    faults = (*it.faults({LATER: "waits"}), "launch.grace=1")
    process = started(it, *faults)
    wait_until((it.notes / "waits").exists)
    process.send_signal(signal.SIGTERM)
    signalled = time.monotonic()
    ended(process, 75, 130)
    assert time.monotonic() - signalled < 20
    assert it.launch(*faults, "--resume", "auto").returncode == 0
    assert it.result() == whole.result()


@pytest.mark.fault(
    Kind.SIGNAL,
    "all processes of a job are signalled",
    by="SIGTERM, SIGUSR1 to launcher, agent, ranks and loading processes",
    outcome="the update is finished and saved, exit code 75; the run goes on as if undisturbed",
)
@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_all_processes_of_a_job(it: Run, number: signal.Signals) -> None:
    settings = ("data.workers=1", "train.updates=100000", *it.faults({}))
    process = started(it, *settings)
    wait_until(lambda: (it.path / "metrics.jsonl").exists() and it.rows())
    for pid in processes_with(str(it.runs)):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    _, err = ended(process, 75)
    assert err == ""
    assert it.status()["state"] == "preempted"
    assert newest(it) == len(it.rows()) == it.status()["update"]


@pytest.mark.fault(
    Kind.SIGNAL,
    "a signal while a checkpoint is written",
    by="SIGTERM, the checkpoint in the background or not",
    outcome="both the one under way and that of the end are whole, exit code 75",
)
@pytest.mark.long
@pytest.mark.parametrize("background", ["false", "true"])
def test_a_signal_while_a_checkpoint_is_written(it: Run, background: str) -> None:
    wide = ("task.entry=fatal.py:Wide", "checkpoint.every=1", f"checkpoint.background={background}")
    process = started(it, *wide, "train.updates=100000")
    wait_until(lambda: list((it.path / "checkpoints").glob(".unfinished_*")))
    process.send_signal(signal.SIGTERM)
    _, err = ended(process, 75)
    assert err == ""
    assert newest(it) == len(it.rows()) == it.status()["update"]
    assert list((it.path / "checkpoints").glob(".*")) == []


class Examined(Run):
    """A run of tests/tasks/mortal.yaml with evaluations."""

    def arguments(self, *settings: str) -> list[str]:
        task = ("tests/tasks/mortal.yaml", "task.entry=mortal.py:Examined", "launch.restarts=0", *settings)
        return ["run", *task, "--runs", str(self.runs), "--run-id", self.name]

    def logged(self) -> list[int]:
        return [row["train/global_step"] for row in self.rows()]


@pytest.mark.fault(
    Kind.SIGNAL,
    "a signal in an evaluation that takes longer than the grace",
    by="SIGTERM, in the middle of a run and after its last update; also to a model in parts",
    outcome="no update is made again: the evaluation is made when the run goes on; bit for bit as if undisturbed",
)
@pytest.mark.parametrize(
    ("every", "engine"),
    [(10, "ddp"), *(pytest.param(*each, marks=pytest.mark.long) for each in ((20, "ddp"), (10, "fsdp"), (20, "fsdp")))],
)
def test_a_signal_in_a_long_evaluation(tmp_path: Path, every: int, engine: str) -> None:
    settings = (f"eval.every={every}", f"parallel.engine={engine}", "launch.grace=4")
    whole, it = Examined(tmp_path, "whole"), Examined(tmp_path)
    assert whole.launch(*settings).returncode == 0
    slow = tmp_path / "slow"
    slow.touch()
    process = started(it, *settings, SLOW=str(slow))
    wait_until(slow.with_suffix(".reached").exists)
    process.send_signal(signal.SIGTERM)
    out, err = ended(process, 75)
    assert "was killed" not in err, err
    assert f"preempted: {every} updates" in out
    assert newest(it) == every
    assert it.logged() == list(range(1, every))
    resumed = started(it, *settings, "--resume", "auto", SLOW=str(slow))  # and once more
    slow.with_suffix(".reached").unlink()
    wait_until(slow.with_suffix(".reached").exists)
    resumed.send_signal(signal.SIGTERM)
    ended(resumed, 75)
    assert newest(it) == every
    assert it.logged() == list(range(1, every))
    slow.unlink()
    done = it.launch(*settings, "--resume", "auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"resumed after update {every}" in done.stdout
    assert "warning" not in done.stdout
    assert it.rows() == whole.rows()
    # After the last update there is nothing to keep but what the evaluation itself has drawn and counted.
    asked = "optimizer" if every == 20 else ""
    states = [{name: kept for name, kept in run.state(20).items() if name.startswith(asked)} for run in (it, whole)]
    assert states[0] == states[1] != {}
