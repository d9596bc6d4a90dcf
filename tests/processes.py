"""Real processes for tests: started, waited for, and never left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent


def clean_environment(**changes: str) -> dict[str, str]:
    """This environment without what could change a run: W&B settings, ranks of an outer job, thread counts."""
    outer = ("WANDB_", "LAUNCHER_", "ACCELERATE_", "TORCHELASTIC_", "PET_")
    single = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(outer) and key not in single}
    # One thread a rank: several ranks that spin for each other's cores can take ten times as long as they need.
    return {**kept, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", **changes}


def torchrun(module: str, out: str, *more: str, ranks: int, timeout: float = 240) -> None:
    """Run a module's `main` on so many ranks, with a file to write to and more; all of them have ended then."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [*command, "-m", "tests.rank", module, out, *more],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def launcher(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the `launcher` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "launcher", *arguments],
        env=clean_environment(**(env or {})),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def processes_with(text: str) -> Iterator[int]:
    """Process ids whose command line or environment holds a text, such as the path of a run."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in found and int(entry.name) != os.getpid():
            yield int(entry.name)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for what the system has no event for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
