"""The table of faults says what the tests did: passed, failed or not run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.faults.table import Fault, Kind, Shown, as_markdown
from tests.processes import ROOT, clean_environment

KILL = Fault(Kind.PROCESS, "a rank is killed", "SIGKILL", "goes on")
FULL = Fault(Kind.DISK, "the disk is full", "a|b", "a warning")


def test_a_row_has_the_number_of_its_tests_and_the_longest_time() -> None:
    text = as_markdown(
        [Shown(KILL, "passed", "", 2.0), Shown(KILL, "passed", "", 4.25), Shown(KILL, "passed", "", None)]
    )
    assert "| a rank is killed | SIGKILL | goes on | 3 | 4.2 |" in text
    assert "## Processes that die" in text
    assert "## Disks" not in text


def test_a_failure_and_a_skipped_test_are_said() -> None:
    text = as_markdown(
        [Shown(KILL, "passed", "", 2.0), Shown(KILL, "failed", "", None), Shown(FULL, "skipped", "no root", None)]
    )
    assert "| **FAILED**: goes on | 2 |" in text
    assert "| the disk is full | a\\|b | not run: no root | 1 |  |" in text


def test_to_run_a_test_again_renews_its_row_alone(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        """
import os
import pytest
from tests.faults.table import Kind

@pytest.mark.fault(Kind.DISK, "one", by="a test", outcome="it goes on")
def test_one(recovered):
    recovered(float(os.environ["SECONDS"]))

@pytest.mark.fault(Kind.DISK, "other", by="a test", outcome="it goes on")
def test_other(recovered):
    recovered(float(os.environ["SECONDS"]))
"""
    )
    table = tmp_path / "docs" / "faults.md"
    for seconds, test in (("1.5", "test_"), ("2.5", "test_one")):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.faults.table", "-k", test, str(tmp_path)]
        subprocess.run(
            [*command, "--fault-table", str(table)], cwd=ROOT, env=clean_environment(SECONDS=seconds), check=True
        )
    assert "| one | a test | it goes on | 1 | 2.5 |" in table.read_text()
    assert "| other | a test | it goes on | 1 | 1.5 |" in table.read_text()
