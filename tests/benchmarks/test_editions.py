from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.editions.found import Found, peak_table, time_table
from benchmarks.editions.picture import draw_peaks
from benchmarks.editions.times import Times
from benchmarks.editions.work import WAYS
from tests.processes import ROOT, clean_environment


def made_up() -> Found:
    """Edition 1 grows by 100 MiB a task, the others not at all; they take half as long again."""
    tasks = (1, 2, 8)
    grows = {way: 100 if way.backward == "joint" else 0 for way in WAYS}
    peaks = {way: {number: (100 + grows[way] * (number - 1)) * 2**20 for number in tasks} for way in WAYS}
    seconds = {way: 1.0 if way.backward == "joint" else 1.5 for way in WAYS}
    times = {way: {number: (Times(seconds[way], 2 * seconds[way]),) * 3 for number in tasks} for way in WAYS}
    return Found(tasks, peaks, times)


def cells(table: str) -> list[list[str]]:
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [head, *rows]


def test_tables_say_how_memory_grows_and_what_time_it_takes() -> None:
    found = made_up()
    assert cells(peak_table(found))[:3] == [
        ["forward", "edition", "1 task", "2 tasks", "8 tasks", "8 / 1"],
        ["own forwards", "1 joint", "100", "200", "800", "8.00"],
        ["own forwards", "2 sequential", "100", "100", "100", "1.00"],
    ]
    rows = cells(time_table(found, lambda times: times.update))
    assert rows[1][2:] == ["2000 ms"] * 3
    assert rows[2][2:] == ["× 1.50"] * 3


def test_picture_has_a_line_and_a_name_for_each_way() -> None:
    found = made_up()
    picture = ElementTree.fromstring(draw_peaks(found))
    space = "{http://www.w3.org/2000/svg}"
    paths = [path.get("d", "") for path in picture.iter(f"{space}path")]
    assert [len(re.findall(r"[\d.]+ [\d.]+", path)) for path in paths] == [3] * len(WAYS)
    heights = [[float(y) for y in re.findall(r" ([\d.]+)", path)] for path in paths]
    for way, (first, *_, last) in zip(WAYS, heights, strict=True):
        assert (last < first) == (way.backward == "joint")  # upwards is less in SVG
    names = {text.text: float(text.get("y", "")) for text in picture.iter(f"{space}text")}
    places = sorted(names[f"{way.edition}, {way.layout}"] for way in WAYS)
    assert all(below - above >= 16 for above, below in itertools.pairwise(places))
    assert 0 < places[0] < places[-1] < float(picture.get("height", ""))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_memory_is_flat_where_it_should_be(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.editions", "--quick", "--write", str(page)],
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    _, *rows = cells(done.stdout)
    growth = {(row[0], row[1]): float(row[-1]) for row in rows}
    assert growth.pop(("own forwards", "1 joint")) > 2
    assert growth.pop(("trunk", "1 joint")) > 1.4
    assert all(0.85 < grown < 1.15 for grown in growth.values()), growth
    assert done.stdout in page.read_text()
    ElementTree.parse(tmp_path / "peak.svg")
