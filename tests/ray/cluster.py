"""A real Ray on this machine: a head node of two cores, with all that takes jobs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import suppress
from pathlib import Path

from launcher.runners.address import free_port
from tests.processes import ROOT, clean_environment, processes_with, wait_until

_STORE = 100_000_000  # bytes, of the memory that the machine shares
# What its dashboard shows.
_PAGES = (
    "/api/jobs/",
    "/api/v0/actors?detail=true",
    "/api/v0/tasks?detail=true",
    "/api/v0/workers?detail=true",
    "/api/v0/objects?detail=true",
    "/api/v0/runtime_envs?detail=true",
    "/logical/actors",
)


class RayCluster:
    """A cluster of one node.

    Attributes:
        environment: what commands need to find it.

    Args:
        packages: the folder that Ray was installed in for the tests; None where the tests' Python has it.
    """

    def __init__(self, packages: Path | None) -> None:
        # The names of its sockets must be short, and those of pytest's folders are not.
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))
        port, jobs = free_port(), free_port()
        found = {}
        if packages is not None:
            found = {"PYTHONPATH": f"{packages}:{ROOT}", "PATH": f"{packages / 'bin'}:{os.environ['PATH']}"}
        # On a busy machine, workers that are slow to begin would else be killed and begun again, for ever.
        busy = {"RAY_worker_register_timeout_seconds": "600", "RAY_worker_niceness": "0"}
        self._own = {"RAY_USAGE_STATS_ENABLED": "0", **busy, **found}
        self.environment = {
            **self._own,
            "RAY_ADDRESS": f"127.0.0.1:{port}",
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{jobs}",
        }
        self._jobs = f"http://127.0.0.1:{jobs}/api/version"
        self._command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"),
            *("--node-ip-address=127.0.0.1", f"--port={port}", f"--dashboard-port={jobs}", "--include-dashboard=true"),
            *("--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={free_port()}"),
            *(f"--dashboard-agent-listen-port={free_port()}", f"--object-store-memory={_STORE}"),
            *(f"--temp-dir={self._folder}", "--disable-usage-stats"),
        ]
        self._head: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it takes jobs."""
        with self._log.open("wb") as log:
            self._head = subprocess.Popen(
                self._command,
                env=clean_environment(**self._own),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._takes_jobs, 180)

    def stop(self) -> None:
        """End it, and all that it has started."""
        if self._head is not None:
            self._head.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._head.wait(30)
        for pid in processes_with(str(self._folder)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not list(processes_with(str(self._folder))), 10)
        shutil.rmtree(self._folder, ignore_errors=True)  # what was killed may still be writing

    def holders(self, text: str) -> list[str]:
        """Where a text stands in what Ray has written, and in what it tells of jobs, actors, tasks and runs."""
        files = (path for path in self._folder.rglob("*") if path.is_file())
        found = [str(path) for path in files if text.encode() in path.read_bytes()]
        for page in _PAGES:
            with urllib.request.urlopen(f"{self._jobs.removesuffix('/api/version')}{page}", timeout=60) as answer:
                if text.encode() in answer.read():
                    found.append(page)
        return found

    def log(self) -> str:
        """What it has printed, for a test that fails."""
        return self._log.read_text()[-3000:]

    @property
    def _log(self) -> Path:
        return self._folder / "head.log"

    def _takes_jobs(self) -> bool:
        if self._head is not None and self._head.poll() is not None:
            raise RuntimeError(self.log())
        with suppress(OSError), urllib.request.urlopen(self._jobs, timeout=5) as answer:
            return bool(answer.status == 200)
        return False
