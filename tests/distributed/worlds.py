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
        more: what `main` is told besides.
        timeout: seconds that they may take.
    """

    def __init__(self, module: str, folder: Path, *more: str, timeout: float = 240) -> None:
        super().__init__()
        self._module = module
        self._folder = folder
        self._more = more
        self._timeout = timeout

    def __missing__(self, world: int) -> Any:
        out = self._folder / f"{world}.json"
        torchrun(self._module, str(out), *self._more, ranks=world, timeout=self._timeout)
        self[world] = json.loads(out.read_text())
        return self[world]


class WorldsOfEngines(dict[str, Worlds]):
    """Engine → its worlds.

    Args:
        module: has the `main` of every rank, which is told the engine.
        folder: for its files.
    """

    def __init__(self, module: str, folder: Path) -> None:
        super().__init__()
        self._module = module
        self._folder = folder

    def __missing__(self, engine: str) -> Worlds:
        folder = self._folder / engine
        folder.mkdir()
        self[engine] = Worlds(self._module, folder, engine)
        return self[engine]
