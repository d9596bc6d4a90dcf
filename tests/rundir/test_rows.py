"""The rows of a run that goes on: none is lost that is whole."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from launcher.rundir.rows import cut_rows
from launcher.runners.follow import RowFollower
from launcher.trackers.jsonl import read_rows
from tests.faults.table import Kind


def lines_to(last: int) -> list[bytes]:
    return [json.dumps({"train/global_step": step, "train/loss": 1.5}).encode() + b"\n" for step in range(1, last + 1)]


def after_cutting(path: Path, lines: list[bytes], update: int) -> tuple[list[bytes], list[str]]:
    said: list[str] = []
    path.write_bytes(b"".join(lines))
    cut_rows(path, update, said.append)
    return path.read_bytes().splitlines(keepends=True), said


def test_rows_past_the_update_go_and_so_does_half_a_row(tmp_path: Path) -> None:
    rows = lines_to(10)
    assert after_cutting(tmp_path / "metrics.jsonl", rows, 7) == (rows[:7], [])
    assert after_cutting(tmp_path / "metrics.jsonl", [*rows[:7], rows[7][:9]], 7) == (rows[:7], [])
    assert after_cutting(tmp_path / "metrics.jsonl", rows, 0) == ([], [])


@pytest.mark.fault(
    Kind.DISK,
    "a bit of metrics.jsonl flips",
    by="in the number of an update; in a brace",
    outcome="the line is named and kept; no row behind it is lost",
)
@pytest.mark.parametrize("harmed", [b"\x7bno row\n", b"[1]\n", b'{"train/global_step": 913}\n', b'{"train/loss": 1}\n'])
def test_a_damaged_line_costs_no_row_behind_it(tmp_path: Path, harmed: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [*lines_to(2), harmed, *lines_to(100)[3:]]
    kept, said = after_cutting(path, rows, 97)
    assert kept == rows[:97]
    assert said == ["warning: damaged lines of metrics.jsonl before update 97: 1; they stay as they are"]


@pytest.mark.fault(
    Kind.DISK,
    "a bit of metrics.jsonl flips",
    by="in the number of an update; in a brace",
    outcome="the line is named and kept; no row behind it is lost",
)
@pytest.mark.parametrize("update", [8, 97])
@pytest.mark.parametrize("at", [3, 8, 50, 96, 97, 98, 99])
def test_whatever_a_flipped_bit_makes_of_an_update_costs_no_other_row(tmp_path: Path, at: int, update: int) -> None:
    """Any number that a bit makes of it, also just that of the checkpoint, before it or behind."""
    rows = lines_to(100)
    for place, bit in itertools.product(range(len(f"{at}")), range(8)):
        digits = bytearray(f"{at}".encode())
        digits[place] ^= 1 << bit
        harmed = rows[at - 1].replace(b'_step": %d' % at, b'_step": %s' % digits)
        kept, said = after_cutting(tmp_path / "metrics.jsonl", [*rows[: at - 1], harmed, *rows[at:]], update)
        assert b"\n" not in digits
        if at < update:
            assert kept == [*rows[: at - 1], harmed, *rows[at:update]]
            assert len(said) == 1
        elif at == update:
            assert kept == rows[: update - 1]
            assert len(said) == 1
        else:
            assert (kept, said) == (rows[:update], [])


def test_a_row_that_jumps_to_the_update_ends_nothing(tmp_path: Path) -> None:
    rows = lines_to(100)
    jumped = [*rows[:2], rows[96], *rows[3:]]
    kept, said = after_cutting(tmp_path / "metrics.jsonl", jumped, 97)
    assert kept == jumped[:97]
    assert said == ["warning: damaged lines of metrics.jsonl before update 97: 1; they stay as they are"]


def test_gaps_are_counted(tmp_path: Path) -> None:
    rows = lines_to(20)
    kept, said = after_cutting(tmp_path / "metrics.jsonl", [*rows[:4], *rows[7:]], 18)
    assert kept == [*rows[:4], *rows[7:18]]
    assert said == ["warning: rows that metrics.jsonl lacks before update 18: 3"]


def test_rows_that_are_missing_are_said(tmp_path: Path) -> None:
    kept, said = after_cutting(tmp_path / "metrics.jsonl", lines_to(5), 7)
    assert kept == lines_to(5)
    assert len(said) == 1
    assert "end with update 5, and the run goes on after update 7" in said[0]


def test_readers_leave_a_damaged_line_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join([lines_to(1)[0], b"\xff{\n", b'{"train/loss": 1}\n', lines_to(2)[1]]))
    assert [row["train/global_step"] for row in RowFollower(path).new()] == [1, 2]
    said: list[str] = []
    assert [row["train/global_step"] for row in read_rows(path, said.append)] == [1, 2]
    assert said == ["warning: damaged lines of metrics.jsonl that are left out: 2"]
