"""What torch itself says of this machine, asked in a process of its own: the command line imports none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from launcher.doctor.finding import Finding, ok, problem, warning

_MODULE = "launcher.worker.torch_facts"
_PATIENCE = 120.0  # seconds: torch may come over a slow network file system


def ask_torch(patience: float = _PATIENCE) -> tuple[Mapping[str, Any] | None, str]:
    """The facts, or None and why there are none: empty where it has not answered in time.

    Args:
        patience: seconds that it may take.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", _MODULE],
            capture_output=True, text=True, errors="replace", check=False, timeout=patience, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, ""
    lines = done.stdout.splitlines()
    try:
        facts: Mapping[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return None, f"cannot be imported: {said[-1] if said else f'exit code {done.returncode}'}"
    return facts, ""


def examine_torch(facts: Mapping[str, Any] | None, why: str, driver_gpus: int) -> Iterator[Finding]:
    """What torch makes of the GPUs, its backends, and how long its import takes.

    Args:
        facts: what it says; None where it says nothing.
        why: why it says nothing; empty where it has not answered in time.
        driver_gpus: how many GPUs the driver has, whatever torch sees of them.
    """
    if facts is None and not why:
        yield warning("import torch", f"takes more than {_PATIENCE:g} s, in every rank",
                      "See what keeps this machine busy (top), and keep the environment on a local disk")  # fmt: skip
        return
    if facts is None:
        yield problem("import torch", why, "Install it again: pip install --force-reinstall torch")
        return
    seconds = float(facts["import_seconds"])
    if seconds > 15:
        yield warning("import torch", f"takes {seconds:.0f} s, in every rank", "Keep the environment on a local disk")
    else:
        yield ok("import torch", f"takes {seconds:.1f} s")
    yield from _cuda(facts, driver_gpus)
    if not facts["gloo"]:
        yield problem("gloo", "torch was built without it", "Install a torch that has it: ranks on CPUs need it")


def _cuda(facts: Mapping[str, Any], driver_gpus: int) -> Iterator[Finding]:
    built, seen = facts["cuda"], facts["devices"]
    if built is None:
        if driver_gpus:
            cure = "Install a torch with CUDA: pip install torch --index-url https://download.pytorch.org/whl/cu128"
            yield problem("CUDA", "torch was built without it, and this machine has GPUs", cure)
        else:
            yield ok("CUDA", "none: torch was built without it, and there is no GPU")
        return
    if not seen:
        if driver_gpus:
            why = facts["cuda_error"] or "CUDA_VISIBLE_DEVICES may hide them"
            yield problem("CUDA", f"{built}, and torch sees none of the {driver_gpus} GPUs: {why}",
                          "Bring the driver up to date for this CUDA, or install a torch for an older one")  # fmt: skip
        else:
            yield ok("CUDA", f"{built} in torch, and there is no GPU")
        return
    yield ok("CUDA", f"{built}, {len(seen)} of {max(driver_gpus, len(seen))} GPUs seen by torch")
    for device in seen:
        if device["arch"] not in facts["archs"] and facts["archs"]:
            yield problem(
                "CUDA",
                f"{device['name']} is {device['arch']}, for which torch has no kernels ({', '.join(facts['archs'])})",
                "Install a torch that was built for it",
            )
    if len({device["name"] for device in seen}) > 1:
        names = ", ".join(sorted({device["name"] for device in seen}))
        yield warning(
            "GPUs", f"are of several kinds ({names})", "Every update waits for the slowest: choose alike ones"
        )
    if facts["nccl"]:
        yield ok("NCCL", facts["nccl"])
    else:
        yield problem("NCCL", "torch was built without it", "Install a torch that has it: ranks on GPUs need it")
