"""The id of the W&B run of a run directory: chosen once, and kept there for every launch that goes on with it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from types import MappingProxyType

from launcher.rundir.layout import RunDirectory, write_atomically

LONGEST_ID = 64
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def wandb_id_of(run: RunDirectory, environ: Mapping[str, str] = MappingProxyType({})) -> str:
    """The id that the run directory keeps, or a new one, which it keeps from now on.

    Args:
        run: the directory of the run.
        environ: the environment, in which the agent of a W&B sweep says as which run the server waits for this one.

    Raises:
        OSError: it can be neither read nor kept.
    """
    try:
        kept = run.wandb_id.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        kept = ""
    if _ID.fullmatch(kept):
        return kept
    given = environ.get("WANDB_RUN_ID", "") if "WANDB_SWEEP_ID" in environ else ""
    chosen = given if _ID.fullmatch(given) else new_wandb_id(run.path.name)
    write_atomically(run.wandb_id, f"{chosen}\n", lasting=True)
    return chosen


def new_wandb_id(name: str) -> str:
    """An id that no other run of the project has, which begins with a run directory's name as far as W&B takes it.

    The name alone would not do: W&B overwrites a run when another one comes with its id, and two people may have a
    directory of the same name.
    """
    cleaned = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    return f"{cleaned[: LONGEST_ID - 9]}-{secrets.token_hex(4)}"
