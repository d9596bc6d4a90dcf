"""Where a benchmark ran."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def this_machine() -> str:
    """The machine and its software in words, without names."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cores} cores ({_cpu_model()}), {memory:.0f} GiB of memory, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _cpu_model() -> str:
    description = Path("/proc/cpuinfo")
    lines = description.read_text(encoding="utf-8").splitlines() if description.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
