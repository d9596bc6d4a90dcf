"""One of the two ranks, which `python -m benchmarks.network` starts on its host: it runs all loops in turn."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from benchmarks.network.case import Case, Link, Round
from benchmarks.network.loops import alone, computing, launched, without_no_sync
from benchmarks.rank import end_rank

_TIMES = 3  # all-reduces with nothing else to do
_COMPUTED = 60  # updates, at least, of the loop that has no network in it and is short


@dataclass(frozen=True)
class Settings:
    """What to measure on a link.

    Attributes:
        link: its rate, as `tc` calls it.
        accumulations: the values of K.
        rounds: how often each loop runs.
        updates: timed updates of each run, one number for each K; where there is no network, no fewer than 60.
        without: the same of the loop without `no_sync`, which takes K times as long.
    """

    link: str
    accumulations: tuple[int, ...]
    rounds: int
    updates: tuple[int, ...]
    without: tuple[int, ...]


def main(settings: Settings, out: Path) -> None:
    """Measure; rank 0 leaves the link in a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    cases = []
    for accumulation, updates, without in zip(settings.accumulations, settings.updates, settings.without, strict=True):
        rounds, size = [], 0
        for _ in range(settings.rounds):
            own, size = launched(accumulation, updates)
            here = computing(accumulation, max(updates, _COMPUTED))
            rounds.append(Round(without_no_sync(accumulation, without), own, here))
        cases.append(Case(settings.link, accumulation, size, tuple(rounds)))
        if dist.get_rank() == 0:
            print(cases[-1].line(), file=sys.stderr)
    link = Link(tuple(cases), alone(cases[-1].size, _TIMES))
    if dist.get_rank() == 0:
        out.write_bytes(pickle.dumps(link))
    end_rank()


if __name__ == "__main__":
    main(TypeAdapter(Settings).validate_json(sys.argv[1]), Path(sys.argv[2]))
