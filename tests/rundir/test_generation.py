"""Which launch is the last: told whatever has become of the file that says so."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from launcher.rundir.checkpoints import Checkpoints
from launcher.rundir.generation import (
    DamagedGenerationError,
    Generation,
    StaleWriterError,
    read_generation,
    take_over,
)
from launcher.rundir.layout import RunDirectory
from tests.faults.table import Kind


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Taken over twelve times."""
    run = RunDirectory(tmp_path)
    for number in range(1, 13):
        assert take_over(run) == number
    return run


@pytest.mark.fault(
    Kind.DISK,
    "the number of the launch cannot be read, or is damaged",
    by="EIO; each bit of its file flipped; an empty file",
    outcome="no launch takes itself for replaced; at worst a checkpoint is missed, with a warning",
)
def test_a_flipped_bit_changes_no_number(run: RunDirectory) -> None:
    written = run.generation.read_bytes()
    for bit in range(8 * len(written)):
        flipped = bytearray(written)
        flipped[bit // 8] ^= 1 << bit % 8
        run.generation.write_bytes(flipped)
        assert read_generation(run) == 12
        Generation(run, 12).check()
        with pytest.raises(StaleWriterError):
            Generation(run, 11).check()


@pytest.mark.fault(
    Kind.DISK,
    "the number of the launch cannot be read, or is damaged",
    by="EIO; each bit of its file flipped; an empty file",
    outcome="no launch takes itself for replaced; at worst a checkpoint is missed, with a warning",
)
def test_a_number_that_cannot_be_read_is_none_of_a_later_launch(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(OSError, match="Input/output error"):
            Generation(run, 12).check()
        with pytest.raises(OSError, match="Input/output error"):
            take_over(run)
    assert read_generation(run) == 12


def test_a_number_that_is_gone_makes_nobody_stale(run: RunDirectory) -> None:
    run.generation.unlink()
    Generation(run, 12).check()


@pytest.mark.parametrize("content", [b"", b"\0" * 9, b"3\n7\n9\n", b"x"])
def test_the_number_never_goes_down(run: RunDirectory, content: bytes) -> None:
    store = Checkpoints(run, print, Generation(run, 12))
    store.commit(store.begin(1), 1, {})
    run.generation.write_bytes(content)
    with pytest.raises(DamagedGenerationError, match="the number of the launch is damaged"):
        Generation(run, 12).check()
    assert take_over(run) == 13
    Checkpoints(run, print).begin(2)
    run.generation.unlink()
    assert take_over(run) == 14  # what is unfinished counts too
    run.logs.mkdir()
    (run.logs / "rank_0.log.20").write_text("")
    run.generation.unlink()
    assert take_over(run) == 21


def test_the_number_of_an_older_launcher_is_read(run: RunDirectory) -> None:
    run.generation.write_text("4\n")
    assert read_generation(run) == 4
