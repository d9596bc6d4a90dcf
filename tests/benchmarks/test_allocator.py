from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.allocator.__main__ import COLUMNS, table
from benchmarks.allocator.measure import Measured
from tests.processes import ROOT, clean_environment


def cells(text: str) -> list[list[str]]:
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [head, *rows]


def test_pairs_are_compared_and_their_medians_told() -> None:
    pairs = [(Measured(0.01 * more, 1500), Measured(0.01, 2)) for more in (1.0, 1.5, 4.0)]
    head, *_, last = cells(table(pairs))
    assert tuple(head) == COLUMNS
    assert last == ["median", "15.00", "10.00", "1.50", "1,500", "2"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its C library is not glibc")
def test_kept_memory_is_not_handed_out_again(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.allocator", "--pairs", "1", "--seconds", "1", "--write", str(page)],
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert float(cells(done.stdout)[-1][-1].replace(",", "")) < 500
    assert done.stdout in page.read_text()
