"""Writes one more checkpoint, as a run does but without torch: python -m tests.faults.writer RUN UPDATE."""

from __future__ import annotations

import sys
from pathlib import Path

from launcher.rundir.checkpoints import Checkpoints
from launcher.rundir.durable import write_durably
from launcher.rundir.layout import RunDirectory

KEEP = 2


def content_of(update: int) -> dict[str, bytes]:
    return {"model.safetensors": b"%d" % update * 3000, "training.json": b"{}"}


def save(run: RunDirectory, update: int) -> bool:
    """Whether it could be saved."""
    store = Checkpoints(run, print)
    try:
        folder = store.begin(update)
    except OSError:
        return False
    try:
        facts = {name: write_durably(folder / name, [content]) for name, content in content_of(update).items()}
        store.commit(folder, update, facts)
    except OSError:
        store.abandon(folder)
        return False
    store.prune(KEEP)
    return True


if __name__ == "__main__":
    sys.exit(0 if save(RunDirectory(Path(sys.argv[1])), int(sys.argv[2])) else 1)
