"""What `batch.on_out_of_memory: halve` costs while nothing fails: the reduction waits for the last backward to end.

Two gloo ranks, started once, one thread each, run the launcher's loop with `stop` and with `halve` in turn. Ratios are
those of neighbouring runs, halve / stop; the table has their median, the smallest and the largest.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import get_args

from torch.multiprocessing.spawn import spawn

from benchmarks.halving.measure import run_rank
from benchmarks.machine import this_machine
from benchmarks.overhead.work import WORLD_SIZE, Size

RESULTS = Path(__file__).with_name("RESULTS.md")


def main(arguments: Sequence[str]) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.halving", description="What halving costs while none fails.")
    parser.add_argument("--model", nargs="+", choices=get_args(Size), default=get_args(Size))
    parser.add_argument("--pairs", type=int, default=7, help="runs of each")
    parser.add_argument("--updates", type=int, help="timed updates of a run")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the ranks: they import torch afresh
    with tempfile.TemporaryDirectory() as folder:
        spawn(run_rank, (options, folder), nprocs=WORLD_SIZE)  # type: ignore[no-untyped-call]  # torch's
        table = (Path(folder) / "table").read_text()
    print(table)
    if options.write:
        command = " ".join(("python -m benchmarks.halving", *arguments))
        where = f"`{command}`, on {this_machine()}, {date.today():%d %B %Y}."
        what = " ".join((__doc__ or "").split())
        RESULTS.write_text(f"# What halving costs while nothing fails\n\n{where}\n\n{what}\n\n{table}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
