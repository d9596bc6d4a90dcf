"""What a run shows, on a terminal and where there is none."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli.display import row_in_words
from launcher.words import duration, size
from tests.processes import ROOT, clean_environment, launcher

TINY = "tests/tasks/tiny.yaml"


def on_a_terminal(columns: int, *arguments: str) -> tuple[int, str]:
    """Run the command on a terminal of its own; its exit code and all that it wrote."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher", *arguments],
        env=clean_environment(COLUMNS=str(columns), TERM="xterm"),
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    while chunk := read(ours):
        written += chunk
    os.close(ours)
    return process.wait(timeout=60), written.decode()


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the last process has let go of the terminal
        return b""


@pytest.mark.parametrize("columns", [30, pytest.param(120, marks=pytest.mark.long)])
def test_a_terminal_gets_a_bar_and_its_cursor_back(tmp_path: Path, columns: int) -> None:
    code, written = on_a_terminal(columns, "run", TINY, "--runs", str(tmp_path))
    assert code == 0, written
    assert "━" in written
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")  # the cursor is shown again
    assert "done: 5 updates" in written


def test_a_pipe_gets_lines_without_colours(tmp_path: Path) -> None:
    done = launcher("run", TINY, "--runs", str(tmp_path))
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == "tiny: 2 ranks on cpu, effective global batch 16 = 2 × 2 micro-steps of 4 samples"
    assert any(line.startswith("update 5/5  loss ") and "batch 16" in line for line in lines)
    assert any(line.startswith("done: 5 updates, 80 samples in ") for line in lines)
    assert "effective global batch: 16 = 2 × 2 micro-steps of 4 samples" in lines


def test_a_run_ends_with_what_its_noise_scale_says(tmp_path: Path) -> None:
    done = launcher("run", TINY, "noise_scale.every=1", "train.updates=20", "--runs", str(tmp_path))
    line = next(line for line in done.stdout.splitlines() if line.startswith("gradient noise scale: about "))
    assert "; the global batch of 16 is " in line
    assert re.search(r"\(for the next plan: noise_scale\.measured=\d+\)$", line)


@pytest.mark.long
def test_a_noise_scale_that_is_not_measured_is_not_told(tmp_path: Path) -> None:
    assert "noise scale" not in launcher("run", TINY, "noise_scale.every=0", "--runs", str(tmp_path)).stdout


def test_a_row_in_words() -> None:
    row = {"train/loss": 0.123456, "train/learning_rate": 3e-3, "batch/global_samples": 1256.0, "eval/accuracy": 0.98}
    assert row_in_words(row) == "loss 0.1235  lr 3.00e-03  batch 1,256  eval/accuracy 0.9800"
    assert row_in_words({"train/loss": None, "batch/global_samples": 8.0}) == "loss not finite  batch 8"


def test_an_update_that_was_skipped_has_no_loss_to_show() -> None:
    assert row_in_words({"train/learning_rate": 3e-3, "batch/global_samples": 16.0}) == "lr 3.00e-03  batch 16"


def test_numbers_as_people_read_them() -> None:
    assert [size(n) for n in (0, 999, 1000, 153_128, 61e6, 2.5e13)] == [
        "0 B", "999 B", "1 kB", "153 kB", "61 MB", "25 TB",
    ]  # fmt: skip
    assert [duration(s) for s in (0.04, 59.9, 61, 3723)] == ["0.04 s", "59.9 s", "1 min 1 s", "1 h 2 min"]
