from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.rundir.generation import take_over
from launcher.rundir.layout import RunDirectory
from launcher.rundir.status import RunStatus
from launcher.trackers.wandb_id import wandb_id_of


def test_what_a_run_goes_on_by_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty file is what a power loss leaves of a rename whose content was not waited for."""
    synced: dict[str, bytes] = {}

    def noting(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced[path.name.removeprefix(".").removesuffix(f".{os.getpid()}")] = path.read_bytes()

    monkeypatch.setattr(os, "fsync", noting)
    run = RunDirectory(tmp_path)
    take_over(run)
    RunStatus("running").write(run)  # once a second: nothing waits for it
    assert synced == {".generation": b"1\n" * 3}
    chosen = wandb_id_of(run)
    assert synced == {".generation": b"1\n" * 3, ".wandb_id": f"{chosen}\n".encode()}
