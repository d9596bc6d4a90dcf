"""What befalls a launch from within: a process of it is killed, stopped or asked to end, where a test said so.

THREATS names a file with one threat for each launch of the run, as JSON; a launch beyond the last is left in peace.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.rundir.generation import read_generation
from launcher.rundir.layout import RunDirectory

What = Literal["kill rank", "stop rank", "kill agent", "kill keeper", "kill launcher", "end launcher", "kill writer"]
_ABOVE = {"agent": 1, "keeper": 2, "launcher": 3}  # how far above a rank it is
_SIGNALS: dict[What, int] = {"stop rank": signal.SIGSTOP, "end launcher": signal.SIGTERM}


@dataclass(frozen=True)
class Threat:
    """What befalls one launch.

    Attributes:
        what: what happens: SIGKILL to what is named, but a rank is stopped by SIGSTOP and the launcher asked to end by
            SIGTERM. The writer is rank 0, killed while it writes a checkpoint.
        rank: which rank does it to itself, or to the agent, its keeper or the launcher above it; counted round where
            there are fewer.
        at: at which of its losses in this launch, from 1; for the writer, at which use of a file of a checkpoint.
    """

    what: What
    rank: int = 0
    at: int = 1


@dataclass(frozen=True)
class Event:
    """What a process has written down.

    Attributes:
        launch: the number of its launch.
        time: on the clock of this machine.
        threat: what it carries out; None for the first loss of rank 0.
    """

    launch: int
    time: float
    threat: Threat | None


def write_threats(path: Path, threats: Sequence[Threat | None]) -> dict[str, str]:
    """Write the threats of a run, launch by launch; the environment that its launches need."""
    path.write_text(json.dumps([threat and asdict(threat) for threat in threats]))
    return {"THREATS": str(path)}


def events(path: Path) -> list[Event]:
    """What has come of the threats of a file."""
    told = _told(path)
    lines = map(json.loads, told.read_text().splitlines() if told.exists() else [])
    return [Event(line["launch"], line["time"], line["threat"] and Threat(**line["threat"])) for line in lines]


def carried_out(path: Path) -> list[Threat]:
    """The threats of a file that have come true."""
    return [event.threat for event in events(path) if event.threat]


class Fate:
    """What befalls this process.

    Args:
        environ: its environment.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._threat: Threat | None = None
        self._left = 0
        self._path: Path | None = None
        if "THREATS" not in environ or "LAUNCHER_RUN_DIR" not in environ:
            return
        self._path = Path(environ["THREATS"])
        self._launch = read_generation(RunDirectory.from_environ(environ))
        # accelerate names no place where there is one process only
        rank, world = int(environ.get("RANK", "0")), int(environ.get("WORLD_SIZE", "1"))
        self._tells = rank == 0
        for found in json.loads(self._path.read_text())[self._launch - 1 : self._launch]:
            if found and found["rank"] % world == rank:
                self._threat = Threat(**found)
                self._left = self._threat.at
                if self._threat.what == "kill writer":
                    sys.addaudithook(self._uses_file)

    def loss(self) -> None:
        """One more loss is computed."""
        if self._path is None:
            return
        if self._tells:
            self._tell(None)
            self._tells = False
        if self._threat and self._threat.what != "kill writer":
            self._come_nearer(self._threat)

    def _uses_file(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Whatever Python does with files passes here first."""
        if event in ("open", "os.rename", "os.mkdir") and ".unfinished_step_" in str(arguments[0]) and self._threat:
            self._come_nearer(self._threat)

    def _come_nearer(self, threat: Threat) -> None:
        self._left -= 1
        if self._left == 0:
            self._tell(threat)
            os.kill(_victim(threat.what), _SIGNALS.get(threat.what, signal.SIGKILL))

    def _tell(self, threat: Threat | None) -> None:
        assert self._path
        with _told(self._path).open("a") as told:
            told.write(json.dumps(asdict(Event(self._launch, time.time(), threat))) + "\n")


def _victim(what: What) -> int:
    pid = os.getpid()
    for _ in range(_ABOVE.get(what.split()[1], 0)):
        pid = _parent_of(pid)
    return pid


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _told(path: Path) -> Path:
    return path.with_suffix(".told")
