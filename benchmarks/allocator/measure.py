"""Two ranks that compute, started with the variables of a launch or without; no network is in it.

python -m benchmarks.allocator.measure SECONDS

Prints seconds and pages of a micro-step, as JSON. A page is counted when the kernel has to hand it out.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter

import torch

from benchmarks.network.task import Perceptron

RANKS, MICRO, ACCUMULATION = 2, 8, 4
_SKIPPED = 10  # updates, until the heap has its size


@dataclass(frozen=True)
class Measured:
    """A micro-step.

    Attributes:
        seconds: its time.
        pages: that the kernel handed out.
    """

    seconds: float
    pages: float


def measured(environment: Mapping[str, str], seconds: float) -> Measured:
    """Ranks in processes of their own, side by side.

    Args:
        environment: theirs.
        seconds: for how long about they compute.

    Raises:
        CalledProcessError: a rank has failed.
    """
    command = [sys.executable, "-m", "benchmarks.allocator.measure", str(seconds)]
    ranks = [
        subprocess.Popen(command, env={**environment, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True)
        for _ in range(RANKS)
    ]
    found = []
    for rank in ranks:
        out, _ = rank.communicate()
        if rank.returncode:
            raise subprocess.CalledProcessError(rank.returncode, command)
        found.append(Measured(**json.loads(out)))
    return Measured(fmean(each.seconds for each in found), fmean(each.pages for each in found))


def main(seconds: float) -> None:
    """Accumulate and step for so long."""
    task = Perceptron()
    model = task.model()
    columns = task.train_data().tensors
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def update() -> None:
        for step in range(ACCUMULATION):
            batch = [column[step * MICRO : (step + 1) * MICRO] for column in columns]
            (task.loss(model, batch) / ACCUMULATION).backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(_SKIPPED):
        update()
    updates, pages, began = 0, _pages(), perf_counter()
    while perf_counter() - began < seconds:
        update()
        updates += 1
    micro_steps = updates * ACCUMULATION
    print(json.dumps({"seconds": (perf_counter() - began) / micro_steps, "pages": (_pages() - pages) / micro_steps}))


def _pages() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    main(float(sys.argv[1]))
