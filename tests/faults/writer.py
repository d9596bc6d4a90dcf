"""Writes one more checkpoint, as a run does but without torch: python -m tests.faults.writer RUN UPDATE.

It says on the last line whether it could.
"""

from __future__ import annotations

import sys
from pathlib import Path

from launcher.rundir.checkpoints import Checkpoints
from launcher.rundir.durable import sync_file, write_durably
from launcher.rundir.generation import Generation
from launcher.rundir.identity import marks_of
from launcher.rundir.layout import RunDirectory

KEEP = 2
GENERATION = 1
SAVED, NOT_SAVED = "saved", "not saved"


def content_of(update: int) -> dict[str, bytes]:
    return {"model.safetensors": b"%d" % update * 3000, "training.json": b"{}"}


def save(run: RunDirectory, update: int) -> bool:
    """Whether it could be saved."""
    store = Checkpoints(run, print, Generation(run, GENERATION))
    try:
        folder = store.begin(update)
    except OSError:
        return False
    try:
        facts = {name: write_durably(folder / name, [content]) for name, content in content_of(update).items()}
        sync_file(run.metrics)
        store.commit(folder, update, facts, marks_of(run))
    except OSError:
        store.abandon(folder)
        return False
    store.prune(KEEP)
    return True


if __name__ == "__main__":
    print(SAVED if save(RunDirectory(Path(sys.argv[1])), int(sys.argv[2])) else NOT_SAVED)
