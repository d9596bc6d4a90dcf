"""`launcher prove` itself: real launches, what they print, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_display import on_a_terminal
from tests.processes import ROOT, clean_environment, launcher, processes_with

PROOFS = "tests/tasks/proofs.yaml"
DIGITS, MULTITASK = "recipes/digits/recipe.yaml", "recipes/multitask/recipe.yaml"
BYTELM = (
    "recipes/bytelm/recipe.yaml",
    "model.parameters=null",
    "task.args={width: 32, layers: 1, context: 64}",
    "batch.global=16",
    "batch.micro=4",
)
EXACT = ("train.determinism=exact",)


def slow(*values: Any) -> Any:
    """One more way of the same, for `make test-all`."""
    return pytest.param(*values, marks=pytest.mark.long)


def prove(runs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return launcher("prove", *arguments, "--runs", str(runs))


@pytest.mark.parametrize(
    ("recipe", "gradient_bytes"),
    [
        ((DIGITS, "launch.nproc_per_node=2"), 38_282 * 4),
        slow((*BYTELM, "launch.nproc_per_node=2"), 92_160),
        ((MULTITASK, "launch.nproc_per_node=2"), 42_572 * 4),
        slow((MULTITASK, "launch.nproc_per_node=2", "multitask.backward=joint"), 42_572 * 4),
        slow((MULTITASK, "launch.nproc_per_node=3", "multitask.backward=sequential"), 42_572 * 4),
        slow((DIGITS, "launch.nproc_per_node=3", "batch.global=250"), 38_282 * 4),
        slow(("recipes/digits/accelerate.yaml", "launch.nproc_per_node=2"), 38_282 * 4),
        slow((DIGITS, "launch.nproc_per_node=1"), 0),
        slow((DIGITS, *EXACT, "train.virtual_ranks=2", "launch.nproc_per_node=2"), 38_282 * 4),
        slow((DIGITS, *EXACT, "train.virtual_ranks=8", "launch.nproc_per_node=3"), 38_282 * 4 * 3 // 2),
        slow((DIGITS, "launch.nproc_per_node=2", "train.precision=bf16", "data.workers=2"), 38_282 * 4),
    ],
)
def test_shipped_recipes_are_equivalent(tmp_path: Path, recipe: tuple[str, ...], gradient_bytes: int) -> None:
    done = prove(tmp_path, *recipe, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    proof = json.loads(done.stdout)
    assert proof["equivalent"]
    assert proof["precision"] == "float32"
    assert proof["error"] < 1e-5
    assert proof["all_reduces"]["bytes"] == proof["all_reduces"]["planned_bytes"] == gradient_bytes
    for loss in proof["losses"]:
        assert loss["accumulated"] == pytest.approx(loss["one_batch"], rel=1e-5)
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "proof.json").read_text()) == proof


@pytest.mark.parametrize(
    ("task", "kind", "place"),
    [
        ("OwnStart", "rank-dependent parameters", "2.bias"),
        slow("Normalised", "batchnorm", "1 (BatchNorm1d)"),
        slow("Dropped", "randomness", "1 (Dropout)"),
        slow("Ragged", "mean of means", "loss"),
    ],
)
def test_the_culprit_is_named(tmp_path: Path, task: str, kind: str, place: str) -> None:
    done = prove(tmp_path, PROOFS, f"task.entry=proofs.py:{task}", "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr == ""
    (cause,) = json.loads(done.stdout)["causes"]
    assert (cause["kind"], cause["places"]) == (kind, [place])


@pytest.mark.long
def test_what_cannot_be_exact_is_refused(tmp_path: Path) -> None:
    done = prove(tmp_path, PROOFS, *EXACT, "train.virtual_ranks=2", "task.entry=proofs.py:Normalised")
    assert done.returncode == 2
    assert "train.determinism: exact cannot be: forward passes change 1.num_batches_tracked of the model" in done.stderr


@pytest.mark.long
def test_a_verdict_comes_first_and_fits_a_narrow_pipe(tmp_path: Path) -> None:
    arguments = [PROOFS, "task.entry=proofs.py:Normalised", "--runs", str(tmp_path)]
    done = launcher("prove", *arguments, env={"COLUMNS": "50"})
    assert done.returncode == 3
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    first, *others = done.stdout.splitlines()
    assert first == "not equivalent: batchnorm"
    assert max(map(len, others[:-1])) <= 50
    told = " ".join(done.stdout.split())
    assert "BatchNorm takes its statistics from one micro-batch, not from the window." in told
    assert "where 1 (BatchNorm1d)" in told
    assert "Use GroupNorm or LayerNorm." in told
    assert f"proof: {tmp_path}" in told


def test_a_rank_that_fails_is_the_cause(tmp_path: Path) -> None:
    done = prove(tmp_path, "tests/tasks/tiny.yaml", "task.args.fault=raise", "task.args.rank=1")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "launcher: Rank 1 failed: ValueError: bad pixel in sample 17. The other ranks stopped" in done.stderr


def test_an_interrupt_ends_all_ranks_while_they_wait_for_the_first(tmp_path: Path) -> None:
    """Rank 0 hangs in its big batch, its third forward pass; rank 1 waits for what it finds."""
    fifo = tmp_path / "told"
    os.mkfifo(fifo)
    faults = ["task.args.fault=hang", "task.args.at=3", f"task.args.tell={fifo}"]
    command = [sys.executable, "-m", "launcher", "prove", "tests/tasks/tiny.yaml", *faults, "--runs", str(tmp_path)]
    process = subprocess.Popen(
        command, env=clean_environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        fifo.read_text()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert (out, err) == ("", "launcher: interrupted\n")
    assert list(processes_with(str(tmp_path))) == []


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("recipes/plain_loop/recipe.yaml",), "script: a script has a loop of its own, which cannot be proved."),
        ((DIGITS, "launch.nodes=2"), "launch.nodes: this command starts the ranks of one machine."),
        ((DIGITS, "batch.micro=x"), "batch.micro"),
    ],
)
def test_what_cannot_be_proved_is_refused(tmp_path: Path, arguments: tuple[str, ...], refusal: str) -> None:
    done = prove(tmp_path, *arguments)
    assert done.returncode == 2
    assert refusal in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_terminal_shows_what_goes_on_and_gets_its_cursor_back(tmp_path: Path) -> None:
    code, written = on_a_terminal(60, "prove", PROOFS, "--runs", str(tmp_path))
    assert code == 0, written
    assert "starting the ranks" in written
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")  # the cursor is shown again
    assert "equivalent: proofs accumulates the gradient of one batch" in written
