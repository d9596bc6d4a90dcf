"""Disks that are full or cannot be written: a warning, and the training goes on with all that it had."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from launcher.errors import RunDirectoryUnusableError
from launcher.rundir.checkpoints import Checkpoints
from launcher.rundir.layout import RunDirectory
from launcher.runners.new_run import create_run_directory
from tests.faults.runs import UPDATES, Run, sample_of
from tests.faults.table import Kind
from tests.processes import ROOT, clean_environment


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a disk of its own cannot be had here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.fault(
    Kind.DISK,
    "the disk is too small for a second checkpoint",
    by="4 MB for the run, of which a checkpoint needs 3",
    outcome="a warning for each that does not fit; the first is kept, half-written ones are removed; after its last "
    "update the run is not done: exit code 3, and where there is room --resume auto makes the lost updates again",
)
@pytest.mark.long
def test_a_disk_that_holds_one_checkpoint(small_disk: Path) -> None:
    it = Run(small_disk)
    large = ("task.entry=fatal.py:Large", "train.updates=8", "launch.restarts=0")
    done = it.launch(*large)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "the end of the run could not be kept" in done.stderr
    for update in (4, 6, 8):
        assert f"warning: no checkpoint after update {update}: No space left on device" in done.stdout
    assert [row["train/global_step"] for row in it.rows()] == list(range(1, 9))
    assert it.status()["state"] == "failed"
    newest = Checkpoints(RunDirectory(it.path), print).newest()
    assert newest is not None
    assert newest.update == 2
    assert [path.name for path in (it.path / "checkpoints").iterdir()] == ["step_00000002"]
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    done = it.launch(*large, "--resume", "auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed after update 2" in done.stdout
    assert [row["train/global_step"] for row in it.rows()] == list(range(1, 9))
    assert "step_00000008" in {path.name for path in (it.path / "checkpoints").iterdir()}


@pytest.mark.fault(
    Kind.DISK,
    "the disk is full for a while",
    by="a file fills it to its last byte in update 5, and goes in update 15",
    outcome="a warning; the training goes on, and metrics, status and last checkpoint are those of an undisturbed run",
)
@pytest.mark.long
def test_a_disk_that_is_full_for_a_while(small_disk: Path, whole: Run) -> None:
    it = Run(small_disk)
    times = {5: "fills_the_disk", 15: "makes_room"}
    done = it.launch(*it.faults({sample_of(at, rank=0, micro_step=1): what for at, what in times.items()}))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: no checkpoint after update 10: No space left on device" in done.stdout
    assert "warning: metrics.jsonl cannot be written now: No space left on device" in done.stdout
    assert it.status() == whole.status()
    assert it.result() == whole.result()
    assert len(it.rows()) == UPDATES


@pytest.mark.fault(
    Kind.DISK,
    "the disk is full when a rank dies, and stays full",
    by="ENOSPC for all that needs room",
    outcome="the rank is named, also in status.json; exit code 75 where there is a checkpoint, with the path",
)
@pytest.mark.long
def test_a_rank_that_dies_while_the_disk_is_full(small_disk: Path) -> None:
    it = Run(small_disk)
    faults = {sample_of(5, rank=0, micro_step=1): "fills_the_disk", sample_of(8, rank=1, micro_step=1): "is_killed"}
    done = it.launch(*it.faults(faults))
    assert done.returncode == 75, done.stdout + done.stderr
    named, path = done.stderr.splitlines()
    assert named.startswith("launcher: Rank 1 was killed by SIGKILL")
    assert path == (f"launcher: The run could not be started again: {it.path}/.generation: No space left on device.")
    status = it.status()
    assert (status["state"], status["exit_code"], status["failure"]["rank"]) == ("failed", 75, 1)


@pytest.mark.fault(
    Kind.DISK,
    "the disk is slow",
    by="fsync of the model takes 25 s, longer than parallel.timeout (strace)",
    outcome="the run takes longer, and ends well, with all of its checkpoints",
)
@pytest.mark.long
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("background", ["false", "true"])
def test_a_disk_that_is_slow_costs_time_only(it: Run, background: str) -> None:
    settings = ("train.updates=4", "parallel.timeout=15", "launch.restarts=0", f"checkpoint.background={background}")
    model = it.path / "checkpoints" / ".unfinished_step_00000002.1" / "model.safetensors"
    tracer = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-P", str(model), "-e", "trace=fsync"]
    command = [sys.executable, "-m", "launcher", *it.arguments(*settings)]
    done = subprocess.run(
        [*tracer, "-e", "inject=fsync:delay_enter=25s", *command],
        env=clean_environment(), cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert it.status()["state"] == "done"
    assert "warning" not in done.stdout
    assert {path.name for path in (it.path / "checkpoints").iterdir()} == {"step_00000002", "step_00000004"}


@pytest.mark.fault(
    Kind.DISK,
    "the folder of the runs cannot be written",
    by="a disk mounted for reading; a folder of somebody else; a full disk",
    outcome="refused before anything starts, exit code 2",
)
def test_a_folder_that_cannot_be_written(small_disk: Path) -> None:
    it = Run(small_disk)
    begun = small_disk / "begun"
    begun.mkdir()
    (begun / "status.json").write_text("{}")
    with (small_disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while file.write(b"x" * 2**16):
            pass
    full = it.launch()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    fresh, again = it.launch(), Run(small_disk, "begun").launch("--resume", "auto")
    for done, why in (
        (full, "No space left on device"),
        (fresh, "Read-only file system"),
        (again, "Read-only file system"),
    ):
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith(f"launcher: {small_disk}/"), done.stderr
        assert why in done.stderr


@pytest.mark.fault(
    Kind.DISK,
    "the folder of the runs cannot be written",
    by="a disk mounted for reading; a folder of somebody else; a full disk",
    outcome="refused before anything starts, exit code 2",
)
def test_a_folder_of_somebody_else() -> None:
    """As a user who may not write there: root may, whatever a mode says."""
    with TemporaryDirectory() as name:
        theirs, root = Path(name), os.geteuid() == 0
        theirs.chmod(0o555)
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(RunDirectoryUnusableError, match="cannot be made: Permission denied"):
                create_run_directory(theirs, "it", fresh=False)
        finally:
            if root:
                os.seteuid(0)
