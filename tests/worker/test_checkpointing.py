from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.rundir.layout import RunDirectory
from launcher.train.snapshot import Tensors
from launcher.worker.checkpointing import Captured, RunSaver

_NOTHING = Tensors({}, {})


def test_rows_are_on_the_disk_before_the_checkpoint_that_follows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path)
    run.metrics.write_text("{}\n")
    job: Any = SimpleNamespace(plan=SimpleNamespace(recipe=SimpleNamespace(checkpoint=None)))
    saver = RunSaver(run, job, print)
    unfinished = saver._store.begin(1)
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink().name))
    saver._commit(unfinished, Captured(1, _NOTHING, _NOTHING, {}), [])
    assert synced.index("metrics.jsonl") < synced.index("MANIFEST.json")
