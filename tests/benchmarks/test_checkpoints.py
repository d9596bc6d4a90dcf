from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.checkpoints.measure import Round, Size
from benchmarks.checkpoints.results import results_page, table
from tests.processes import ROOT, clean_environment

FOUND = [
    Size(10, 2**30, (Round(1.0, 2.0, 3.0, 0.1, 4.0), Round(2.0, 2.0, 3.0, 0.1, 4.0), Round(4.0, 2.0, 3.0, 0.1, 4.0)))
]


def test_ratios_are_those_of_one_round() -> None:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(FOUND).splitlines()]
    assert cells[4] == ["10 M (1,024 MiB)", "launcher", "3,000", "1.50", "0.75", "3.00"]
    assert table(FOUND) in results_page(FOUND, 3, "command")


@pytest.mark.long
def test_all_ways_are_measured(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.checkpoints", "--quick", "--folder", str(tmp_path), "--write", str(page)],
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("| 1 M (11 MiB)") == 5
    assert done.stdout in page.read_text()
    assert list(tmp_path.iterdir()) == [page], "what was written is removed"
