"""Launchers on hosts, for the run `it`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.hosts.network import Hosts
from tests.processes import ROOT, clean_environment

PATIENCE = 180.0  # seconds that a host gets for anything: on a busy machine each start of Python and torch takes long
PORT = 29400


class Launched:
    """A launcher in the background.

    Attributes:
        process: the launcher.
    """

    def __init__(self, process: subprocess.Popen[bytes], told: Path) -> None:
        self.process = process
        self._told = told

    @property
    def told(self) -> str:
        """What it has said so far."""
        return self._told.read_text()

    def ends(self, seconds: float = PATIENCE) -> int:
        """Its exit code, when it has ended."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.told) from None


class Site:
    """Hosts that share a folder of runs.

    Attributes:
        hosts: the hosts.
        runs: the folder.
        run: the directory of the run.
        slow: while it is there, paced updates take their time.

    Args:
        hosts: the hosts.
        folder: an empty folder.
    """

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts = hosts
        self.runs = folder / "runs"
        self.run = self.runs / "it"
        self.slow = folder / "slow"
        self._folder = folder
        self._launched: list[Launched] = []

    def launch(self, host: int, recipe: Path, *arguments: str, **env: str) -> Launched:
        """Start `launcher run` on a host."""
        command = ["run", str(recipe), "--runs", str(self.runs), "--run-id", "it", *arguments]
        path = self._folder / f"told_{len(self._launched)}.txt"
        with path.open("w") as told:
            process = subprocess.Popen(
                self.hosts.on(host, sys.executable, "-m", "launcher", *command),
                env=clean_environment(SLOW=str(self.slow), **env),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._launched.append(Launched(process, path))
        return self._launched[-1]

    def by_hand(self, host: int, recipe: Path, *arguments: str, **env: str) -> Launched:
        """Start the launcher of a host, one of all, that has its place."""
        return self.launch(host, recipe, *self.place(host), *arguments, **env)

    def place(self, host: int) -> Sequence[str]:
        """The flags of a host by hand."""
        count, first = len(self.hosts.names), self.hosts.names[0]
        return ("--nodes", str(count), "--node-rank", str(host), "--rendezvous", f"{first}:{PORT}")

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the run so far; the last line may be half-written."""
        path = self.run / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def status(self) -> dict[str, Any]:
        """How the run stands."""
        found: dict[str, Any] = json.loads((self.run / "status.json").read_text())
        return found

    def checkpoint(self) -> int:
        """The update of the newest checkpoint."""
        found = (self.run / "checkpoints").glob("step_*")
        return max((int(path.name.removeprefix("step_")) for path in found), default=0)

    def wait(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait for what the hosts have no event for."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "\n".join(one.told for one in self._launched)
            time.sleep(0.05)

    def is_quiet(self) -> None:
        """Wait until nothing runs on any host: at most as long as a launcher takes to end what it has started."""
        self.wait(lambda: not any(self.hosts.pids(number) for number in range(len(self.hosts.names))), 5)
