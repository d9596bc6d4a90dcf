"""Peak memory of one window, in a process of its own.

python -m benchmarks.editions.peak WAY TASKS MICRO

Prints the bytes by which the process's resident memory rises above what it has before the window: the model and its
data are there, gradients are not. Linux tells the highest value since it was last asked to forget it.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.editions.work import WAYS, Work, ready

_PROCESS = Path("/proc/self")
_FORGET_PEAK = "5"  # see proc(5), clear_refs


def measure_peak(work: Work) -> int:
    """The peak of a window, measured in a fresh process, in bytes."""
    words = map(str, (WAYS.index(work.way), work.tasks, work.micro))
    # glibc keeps freed memory of its own accord, and how much depends on the order of sizes; large tensors that it
    # maps one by one are given back at once, so that what is resident is what tensors live in.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "benchmarks.editions.peak", *words]
    return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _peak(work: Work) -> int:
    job, window = ready(work)
    job.accumulation.accumulate(window)  # libraries set themselves up on the first one
    job.engine.model.zero_grad(set_to_none=True)
    gc.collect()
    (_PROCESS / "clear_refs").write_text(_FORGET_PEAK)
    before = _resident("VmRSS")
    job.accumulation.accumulate(window)
    return _resident("VmHWM") - before


def _resident(what: str) -> int:
    """Resident memory now (VmRSS) or at its highest (VmHWM), in bytes."""
    lines = (_PROCESS / "status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def main(arguments: Sequence[str]) -> None:
    way, tasks, micro = map(int, arguments)
    print(_peak(Work(WAYS[way], tasks, micro)))


if __name__ == "__main__":
    main(sys.argv[1:])
