from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.overhead.case import COLUMNS
from tests.processes import ROOT, clean_environment


def test_both_loops_run_and_do_the_same_work(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.overhead", "--quick", "--write", str(page)],
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert tuple(head) == COLUMNS
    assert [row[:3] for row in rows] == [["tiny", items, k] for items in ("samples", "counted") for k in ("1", "4")]
    for row in rows:
        numbers = dict(zip(COLUMNS[3:], map(float, row[3:]), strict=True))
        assert all(numbers[name] > 0 for name in COLUMNS[3:9])
        assert numbers["parameters differ by"] < 1e-4
    assert done.stdout in page.read_text()
