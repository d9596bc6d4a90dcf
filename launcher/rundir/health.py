"""Whether the ranks that train here still tell of themselves: what a container's health check asks.

`python -m launcher.rundir.health` exits with 1 when one has been silent for too long.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from launcher.rundir.layout import RunDirectory

SILENT = 120.0  # seconds, of which a beat takes half a one; loading a library in C may keep a rank from telling


def silent_ranks(processes: Path, now: float) -> list[str]:
    """The ranks of this machine whose heartbeat is old, each with its run. Ranks that have not begun have none.

    Args:
        processes: /proc.
        now: the time, in seconds since the epoch.
    """
    silent = set()
    for run, rank in _ranks(processes):
        with suppress(OSError):  # it has ended
            age = now - (run.heartbeats / f"rank_{rank}").stat().st_mtime
            if age > SILENT:
                silent.add(f"rank {rank} of {run.path} has been silent for {age:.0f} seconds")
    return sorted(silent)


def _ranks(processes: Path) -> Iterator[tuple[RunDirectory, str]]:
    """The ranks that run here, by the environment of their processes."""
    for entry in processes.glob("[0-9]*/environ"):
        try:
            text = entry.read_bytes().decode(errors="replace")
        except OSError:
            continue
        told = dict(item.partition("=")[::2] for item in text.split("\0"))
        if "RANK" in told and "LAUNCHER_RUN_DIR" in told:
            yield RunDirectory.from_environ(told), told["RANK"]


if __name__ == "__main__":
    found = silent_ranks(Path("/proc"), time.time())
    print("; ".join(found))
    sys.exit(bool(found))
