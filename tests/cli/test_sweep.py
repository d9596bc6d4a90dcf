"""`launcher sweep` on this machine: what is done is not done again, what fails hinders nothing, a signal ends it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from launcher.cli.sweep_request import PlannedRun
from launcher.cli.sweep_table import Result, best_of
from launcher.report.evaluation import Extreme, Measured
from tests.processes import clean_environment, launcher, wait_until

TASK = """
import os, signal, time, torch
from pathlib import Path
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Task


class Line(Task):
    def __init__(self, bad=False, slow=None):
        self.bad, self.slow = bad, slow

    def model(self):
        return nn.Linear(2, 1)

    def train_data(self):
        inputs = torch.arange(32.0).reshape(16, 2) / 32
        return TensorDataset(inputs, inputs.sum(1, keepdim=True))

    def loss(self, model, batch):
        if self.bad:
            raise ValueError("a bad one")
        if self.slow is not None and not Path("fast").exists():
            time.sleep(0.2)
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    def eval_data(self):
        return self.train_data()

    def evaluate(self, model, batch):
        return {"loss": nn.functional.mse_loss(model(batch[0]), batch[1], reduction="none").flatten()}
"""
RECIPE = """
name: line
task: {entry: line.py:Line}
batch: {global: 8, micro: 4}
train: {updates: 4}
optimizer: {name: sgd, lr: 0.1}
launch: {device: cpu}
checkpoint: {every: 1000}
tracking: {wandb: {mode: disabled}}
"""


@pytest.fixture
def line(runs: Path) -> Path:
    """The folder of a recipe."""
    (runs / "line.py").write_text(TASK)
    (runs / "line.yaml").write_text(RECIPE)
    return runs


def test_runs_one_after_another_and_not_again(line: Path) -> None:
    grid = ("sweep", "line.yaml", "optimizer.lr=0.1", "task.args.bad=true,false")
    shown = launcher(*grid, "--dry-run", cwd=line)
    assert not (line / "runs").exists()
    commands = [shlex.split(command) for command in shown.stdout.splitlines()]
    assert [command[:3] for command in commands] == [["launcher", "run", "line.yaml"]] * 2

    done = launcher(*grid, cwd=line)
    assert done.returncode == 3
    folder = line / "runs" / "line-sweep"
    states = {path.parent.name: json.loads(path.read_text())["state"] for path in folder.glob("*/status.json")}
    assert states == {"lr-0.1-bad-true": "failed", "lr-0.1-bad-false": "done"}
    table = [row for text in done.stdout.splitlines() if (row := text.split()) and row[0] in ("true", "false")]
    assert [row[:3] for row in table] == [["true", "failed", "0"], ["false", "done", "4"]]
    assert "lr-0.1-bad-true: ValueError: a bad one" in done.stdout
    assert "best: lr-0.1-bad-false (eval/loss " in done.stdout
    assert "group: line-sweep" in (folder / "lr-0.1-bad-false" / "recipe.yaml").read_text()

    shown = launcher(*grid, "--dry-run", cwd=line)
    assert [text.startswith("# done: launcher run ") for text in shown.stdout.splitlines()] == [False, True]
    assert launcher(*grid, "--results", cwd=line).stdout.strip() in done.stdout
    # What was printed before anything ran does what the sweep has done.
    again = launcher(*commands[1][1:], cwd=line)
    assert (again.returncode, again.stdout) == (0, "done: runs/line-sweep/lr-0.1-bad-false has gone to its end\n")


@pytest.mark.long
def test_a_signal_ends_the_sweep_and_the_next_goes_on(line: Path) -> None:
    grid = ("sweep", "line.yaml", "optimizer.lr=0.1,0.2", "task.args.slow=1", "train.updates=200")
    command = [sys.executable, "-m", "launcher", *grid]
    first, second = (line / "runs" / "line-sweep" / f"lr-{lr}-slow-1-updates-200" for lr in (0.1, 0.2))
    rows = first / "metrics.jsonl"
    with subprocess.Popen(command, cwd=line, env=clean_environment(), stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: rows.exists() and rows.read_text().count("\n") > 1, 60)
        os.kill(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said.count("not begun") == 1
    assert not second.exists()
    stopped = json.loads((first / "status.json").read_text())["update"]
    (line / "fast").touch()
    done = launcher(*grid, cwd=line)
    assert done.returncode == 0, done.stderr
    assert f"resumed after update {stopped}\n" in done.stdout
    for path in (first, second):
        told = [json.loads(text)["train/global_step"] for text in (path / "metrics.jsonl").read_text().splitlines()]
        assert told == list(range(1, 201))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("batch.micro=4,x,y",), "batch.micro: must be auto or a whole number of at least 1, not 'x'."),
        (("launch.nodes=1,2",), "launch.nodes: this command starts the ranks of one machine. Hand the sweep to Slurm"),
        (("launch.nodes=1:2",), "launch.nodes: this command starts the ranks of one machine. Hand the sweep to Slurm"),
        (("optimizer.lr=1,2", "--sweep-id", "a/b"), "--sweep-id 'a/b': use up to 128 letters"),
        (("optimizer.lr=1,2", "--sweep-id", ""), "--sweep-id '': use up to 128 letters"),
        (("optimizer.lr=1,2", "--at-once", "2"), "--at-once: is for runs that an engine takes. Say which: --to slurm."),
    ],
)
def test_a_mistake_in_any_run_is_told_before_the_first(line: Path, arguments: tuple[str, ...], said: str) -> None:
    done = launcher("sweep", "line.yaml", *arguments, cwd=line)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (line / "runs").exists()


@pytest.mark.parametrize("engine", ["kubernetes", "docker", "ray", "skypilot"])
def test_an_engine_without_arrays_is_refused(line: Path, engine: str) -> None:
    """It would have trained here."""
    done = launcher("sweep", "line.yaml", "optimizer.lr=0.1,0.2", "--to", engine, cwd=line)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'--to'" in done.stderr
    assert f"'{engine}' is not one of 'slurm'" in done.stderr
    assert not (line / "runs").exists()


@pytest.mark.long
def test_a_recipe_that_has_changed_is_refused_before_any_run_goes_on(line: Path) -> None:
    launcher("sweep", "line.yaml", "optimizer.lr=0.1", cwd=line)
    (line / "line.yaml").write_text(RECIPE.replace("updates: 4", "updates: 5"))
    said = "train.updates: the run was begun with 4, not 5. Set it back, or begin another sweep by --sweep-id."
    for more in (["--dry-run"], []):
        done = launcher("sweep", "line.yaml", "optimizer.lr=0.1,0.2", *more, cwd=line)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
    assert not (line / "runs" / "line-sweep" / "lr-0.2").exists()
    other = launcher("sweep", "line.yaml", "optimizer.lr=0.2", "--sweep-id", "other", cwd=line)
    assert other.returncode == 0, other.stderr


def test_the_best_is_known_by_the_name_of_what_is_measured() -> None:
    """Also where each run has evaluated once, so that its lowest value is its highest."""

    def result(name: str, value: float, lower_is_better: bool) -> Result:
        once = Extreme(value, 6)
        measured = Measured(name, once, once, once, once, lower_is_better)
        return Result(cast("PlannedRun", None), "done", 6, 1.0, {name: measured})

    good, bad = result("accuracy", 0.63, False), result("accuracy", 0.34, False)
    assert best_of([bad, good]) is best_of([good, bad]) is good
    good, bad = result("perplexity", 2.0, True), result("perplexity", 3.0, True)
    assert best_of([bad, good]) is best_of([good, bad]) is good
