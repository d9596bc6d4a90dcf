"""Prints what torch says of this machine as one line of JSON; a program, started by `launcher doctor`."""

from __future__ import annotations

import json
import time
from typing import Any

from launcher.linux import end_with_parent


def facts() -> dict[str, Any]:
    """What torch was built with, and what it sees."""
    began = time.perf_counter()
    import torch
    import torch.distributed as dist

    seconds = time.perf_counter() - began
    error, devices = "", []
    if torch.version.cuda:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]  # torch's
        except (RuntimeError, AssertionError) as refused:
            error = str(refused).splitlines()[0]
    for index in range(torch.cuda.device_count() if torch.version.cuda and not error else 0):
        seen = torch.cuda.get_device_properties(index)
        devices.append({"name": seen.name, "bytes": seen.total_memory, "arch": f"sm_{seen.major}{seen.minor}"})
    has_nccl = dist.is_available() and dist.is_nccl_available()
    nccl = "there" if has_nccl else ""
    if has_nccl and devices:
        nccl = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]  # torch's
    return {
        "import_seconds": seconds,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cuda_error": error,
        "devices": devices,
        "archs": torch.cuda.get_arch_list() if devices else [],
        "nccl": nccl,
        "gloo": dist.is_available() and dist.is_gloo_available(),
    }


if __name__ == "__main__":
    end_with_parent()
    print(json.dumps(facts()))
