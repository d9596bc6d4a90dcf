from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.network.case import CARRIED, COLUMNS, FRAME, Case, Link, Round
from tests.hosts.needs import need_hosts
from tests.processes import ROOT, clean_environment


@pytest.mark.long
def test_a_slow_link_is_measured(tmp_path: Path) -> None:
    """What a loaded machine cannot change: K times the bytes take longer, and nothing is faster than the link."""
    need_hosts()
    page = tmp_path / "results.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.network", "--quick", "--link", "100mbit", "--write", str(page)],
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert tuple(head) == COLUMNS
    assert [row[:2] for row in rows] == [["100 Mbit/s", "1"], ["100 Mbit/s", "4"]]
    every, launched, _, wire, *_ = map(float, rows[1][2:])
    assert wire == pytest.approx(8 * 4 * 2_894_890 * FRAME / CARRIED / 1e8, abs=1e-3)
    assert launched > 0.95 * wire  # a burst goes at once
    assert every > 3.5 * wire
    assert every > 2 * launched
    assert done.stdout in page.read_text()
    assert "% of the rate): as long as the computing of K = " in page.read_text()


def test_the_network_takes_as_long_as_so_many_micro_steps() -> None:
    """0.1 s on the network, 0.01 s a micro-step, 0.005 s an optimizer step: K = 10."""
    size = 12_500_000 * CARRIED // FRAME
    cases = [Case("1gbit", k, size, (Round(0.1 * k, 0.1, 0.005 + 0.01 * k),)) for k in (1, 4, 16)]
    assert Link(tuple(cases), alone=0.1).hidden == pytest.approx(10)
    assert cases[0].wire == pytest.approx(0.1)
    assert cases[1].ratios == [pytest.approx(0.1 / 0.145, rel=1e-6)]
