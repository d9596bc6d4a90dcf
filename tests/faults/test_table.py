"""The table of faults says what the tests did: passed, failed or not run."""

from __future__ import annotations

from tests.faults.table import Fault, Kind, Shown, as_markdown

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
