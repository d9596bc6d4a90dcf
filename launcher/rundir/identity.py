"""Which run a directory holds: an id made once, carried by its checkpoints, so that no other run's are taken."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from launcher.errors import Mistake, RequestError
from launcher.rundir.checkpoints import Checkpoint
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.rundir.manifest import MANIFEST, BadCheckpointError, Manifest

NEW_WANDB_RUN = "(the next launch chooses one)"  # no id: what a fork leaves, so that none is restored
_ID = re.compile(r"[0-9a-f]{32}")


def marks_of(run: RunDirectory) -> dict[str, str]:
    """What a checkpoint of a run carries: the run's identity, made if it has none, and its W&B id if it has one.

    Raises:
        OSError: the identity can be neither read nor kept.
    """
    identity = _identity(run)
    if identity is None:
        identity = secrets.token_hex(16)
        _keep(run, identity)
    wandb_id = _text(run.wandb_id)
    return {"run": identity, **({"wandb_id": wandb_id} if wandb_id not in ("", NEW_WANDB_RUN) else {})}


def refuse_foreign(run: RunDirectory, checkpoint: Checkpoint) -> None:
    """Keep a run from going on with what another has learned. Older checkpoints carry no identity, and are taken.

    Args:
        run: the directory of the run.
        checkpoint: a good checkpoint in it.

    Raises:
        RequestError: it is of another run.
    """
    own, carried = _identity(run), marks_in(checkpoint).get("run")
    if own is None or carried is None or own == carried:
        return
    raise RequestError(
        [
            Mistake(
                "",
                f"{checkpoint.folder.name} was written by another run",
                f"Move it out of {checkpoint.folder.parent}, and start again",
                where=str(run.path),
            )
        ]
    )


def restore_identity(run: RunDirectory, checkpoint: Checkpoint) -> None:
    """Give a directory that has lost them the ids that its checkpoint carries, as far as they can be written.

    Args:
        run: the directory of the run, which is held.
        checkpoint: a checkpoint of this run.
    """
    carried = marks_in(checkpoint)
    with suppress(OSError):
        if _identity(run) is None and _ID.fullmatch(carried.get("run", "")):
            _keep(run, carried["run"])
        if not _text(run.wandb_id) and carried.get("wandb_id"):
            write_atomically(run.wandb_id, carried["wandb_id"] + "\n", lasting=True)


def marks_in(checkpoint: Checkpoint) -> Mapping[str, str]:
    """What a checkpoint carries; it is verified, so what is missing was never written."""
    try:
        return Manifest.from_text((checkpoint.folder / MANIFEST).read_bytes()).marks
    except (OSError, BadCheckpointError):
        return {}


def _identity(run: RunDirectory) -> str | None:
    found = _text(run.identity)
    return found if _ID.fullmatch(found) else None


def _keep(run: RunDirectory, identity: str) -> None:
    write_atomically(run.identity, f"{identity}\n", lasting=True)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""
