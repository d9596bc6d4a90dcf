"""What the launcher's loop costs against the same training written by hand.

Two gloo ranks, started once, one thread each, run both loops in turn: by hand, launched, by hand, launched, ... A run
is timed from before its sixth update until it has ended, in the slower rank: the model, its optimizer, DDP and the
first five updates are not in it, nor the sample order that the launcher computes ahead (10 to 40 µs per update).
Ratios are those of neighbouring runs; the table has their median, the smallest and the largest. CPU time is that of
both ranks and all their threads; other processes disturb it less than the wall time. Before they are timed, both loops
train on the same windows and their parameters are compared: it is the same work.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from torch.multiprocessing.spawn import spawn

from benchmarks.overhead.case import table
from benchmarks.overhead.measure import Settings, read_cases, run_rank
from benchmarks.overhead.results import results_page
from benchmarks.overhead.work import WORLD_SIZE, Items, Size

PROGRAM = "python -m benchmarks.overhead"
RESULTS = Path(__file__).with_name("RESULTS.md")
UPDATES: dict[Size, int] = {"tiny": 200, "wide": 40}


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    settings = _settings(options)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the ranks: they import torch afresh
    with tempfile.TemporaryDirectory() as folder:
        spawn(run_rank, (settings, Path(folder)), nprocs=WORLD_SIZE)  # type: ignore[no-untyped-call]  # torch's
        cases = read_cases(Path(folder))
    print(table(cases))
    if options.write:
        options.write.write_text(results_page(cases, settings.pairs, shlex.join([*PROGRAM.split(), *arguments])))


def _settings(options: argparse.Namespace) -> Settings:
    if options.quick:
        return Settings(("tiny",), (1, 4), ("samples", "counted"), pairs=1, updates={"tiny": 5})
    updates = dict.fromkeys(options.model, options.updates) if options.updates else UPDATES
    return Settings(tuple(options.model), tuple(options.k), tuple(options.items), options.pairs, updates)


def _parser() -> argparse.ArgumentParser:
    sizes, items = get_args(Size), get_args(Items)
    parser = argparse.ArgumentParser(PROGRAM, description="What the launcher's loop costs against one written by hand.")
    parser.add_argument(
        "--model", nargs="+", choices=sizes, default=sizes, help="9.6 thousand or 9.8 million parameters"
    )
    parser.add_argument("--k", nargs="+", type=_count, default=(1, 4, 16), help="micro-steps per update")
    parser.add_argument(
        "--items", nargs="+", choices=items, default=items, help="items known from the plan, or counted in the data"
    )
    parser.add_argument("--pairs", type=_count, default=7, help="runs of each loop")
    parser.add_argument("--updates", type=_count, help=f"timed updates of a run (default: {UPDATES})")
    parser.add_argument("--quick", action="store_true", help="only show that it works: tiny, K = 1 and 4, one pair")
    parser.add_argument("--write", nargs="?", type=Path, const=RESULTS, metavar="FILE", help="write RESULTS.md")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


if __name__ == "__main__":
    main(sys.argv[1:])
