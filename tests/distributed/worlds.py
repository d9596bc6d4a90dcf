"""What the ranks of a module find, on several numbers of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.processes import torchrun


class Worlds(dict[int, Any]):
    """World size → what a module's ranks have written; they run when it is first asked for.

    Args:
        module: has the `main` of every rank.
        folder: for its files.
        timeout: seconds that they may take.
    """

    def __init__(self, module: str, folder: Path, timeout: float = 240) -> None:
        super().__init__()
        self._module = module
        self._folder = folder
        self._timeout = timeout

    def __missing__(self, world: int) -> Any:
        out = self._folder / f"{world}.json"
        torchrun(self._module, str(out), ranks=world, timeout=self._timeout)
        self[world] = json.loads(out.read_text())
        return self[world]
