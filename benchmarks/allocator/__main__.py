"""What it costs where glibc gives memory back that the next micro-step takes again: ranks on CPUs keep it."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median
from textwrap import dedent

from benchmarks.allocator.measure import ACCUMULATION, MICRO, RANKS, Measured, measured
from benchmarks.machine import this_machine
from benchmarks.markdown import markdown_table
from launcher.launch.environ import allocator_environment

PROGRAM = "python -m benchmarks.allocator"
RESULTS = Path(__file__).with_name("RESULTS.md")
COLUMNS = ("pair", "glibc's own, ms", "kept, ms", "own / kept", "glibc's own, pages", "kept, pages")


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    own = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    kept = {**own, **allocator_environment({})}
    pairs = []
    for number in range(options.pairs):
        pairs.append((measured(own, options.seconds), measured(kept, options.seconds)))
        print(f"pair {number + 1} of {options.pairs} is measured", file=sys.stderr)
    print(table(pairs))
    if options.write:
        options.write.write_text(results_page(pairs, shlex.join([*PROGRAM.split(), *arguments])))


def table(pairs: Sequence[tuple[Measured, Measured]]) -> str:
    """A line for each pair, and their medians."""
    rows = [
        (1e3 * own.seconds, 1e3 * kept.seconds, own.seconds / kept.seconds, own.pages, kept.pages)
        for own, kept in pairs
    ]
    named = [
        *((str(number), row) for number, row in enumerate(rows, 1)),
        ("median", tuple(map(median, zip(*rows, strict=True)))),
    ]
    body = [
        (name, f"{own:.2f}", f"{kept:.2f}", f"{ratio:.2f}", f"{given:,.0f}", f"{few:,.0f}")
        for name, (own, kept, ratio, given, few) in named
    ]
    return markdown_table(COLUMNS, body, words=1)


def results_page(pairs: Sequence[tuple[Measured, Measured]], command: str) -> str:
    """RESULTS.md."""
    head = f"""\
        # What it costs to give memory back

        `{command}`, on {this_machine()}, {date.today():%d %B %Y}.

        A micro-step of the perceptron of [the benchmark of networks](../network/RESULTS.md), {MICRO} samples, K =
        {ACCUMULATION}, on {RANKS} ranks at once without a network. *glibc's own*: as its allocator is by itself.
        *Kept*: with the two variables that the launcher sets for ranks on CPUs, so that what a micro-step frees is
        there for the next one. Pages are those that the kernel handed out in a micro-step, filled with zeros.

        How much glibc gives back depends on what lies at the end of the heap, and differs from process to process:
        each line is a pair of fresh ones, one after the other.

        """
    return dedent(head) + table(pairs) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(PROGRAM, description="What it costs where glibc gives memory back.")
    parser.add_argument("--pairs", type=int, default=7, help="runs with and without")
    parser.add_argument("--seconds", type=float, default=5.0, help="that a run computes for")
    parser.add_argument("--write", nargs="?", type=Path, const=RESULTS, metavar="FILE", help="write RESULTS.md")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
