"""The option of commands that are shown to be typed."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

_DEFAULT = "runs"


def runs_option(runs: Path) -> str:
    """What a command needs besides to find the runs of a folder, with a space before; empty for the default one.

    Args:
        runs: the folder.
    """
    here, folder = Path.cwd(), runs.absolute()
    with suppress(ValueError):
        folder = folder.relative_to(here)
    return "" if str(folder) == _DEFAULT else f" --runs {shlex.quote(str(folder))}"
