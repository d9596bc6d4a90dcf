"""What the three editions of the backward cost: peak memory and time of one window, over the number of losses.

Memory is measured in a process of its own each time: by how much the resident memory rises above what it is before
the window. CPU times are taken in one process with one thread, in which the ways take turns.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.editions.found import Found, peak_table
from benchmarks.editions.peak import measure_peak
from benchmarks.editions.picture import draw_peaks
from benchmarks.editions.results import results_page
from benchmarks.editions.times import Times, measure_times
from benchmarks.editions.work import WAYS, Way, Work

PROGRAM = "python -m benchmarks.editions"
RESULTS = Path(__file__).with_name("RESULTS.md")
PICTURE = "peak.svg"


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    if options.quick:
        options.tasks, options.micro, options.rounds = (1, 3), 4096, 1
    torch.set_num_threads(1)
    found = _measure(sorted(set(options.tasks)), options.micro, options.rounds)
    print(peak_table(found))
    if options.write:
        command = shlex.join([*PROGRAM.split(), *arguments])
        options.write.write_text(results_page(found, options.micro, options.rounds, command, PICTURE))
        options.write.with_name(PICTURE).write_text(draw_peaks(found) + "\n")


def _measure(tasks: Sequence[int], micro: int, rounds: int) -> Found:
    peaks: dict[Way, dict[int, int]] = {way: {} for way in WAYS}
    times: dict[Way, dict[int, tuple[Times, ...]]] = {way: {} for way in WAYS}
    for number in tasks:
        for way in WAYS:
            peaks[way][number] = measure_peak(Work(way, number, micro))
        for layout in dict.fromkeys(way.layout for way in WAYS):
            of_layout = measure_times([way for way in WAYS if way.layout == layout], number, micro, rounds)
            for way, measured in of_layout.items():
                times[way][number] = measured
        print(f"T = {number} is measured", file=sys.stderr)
    return Found(tuple(tasks), peaks, times)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(PROGRAM, description="What the three editions of the backward cost.")
    parser.add_argument("--tasks", nargs="+", type=_count, default=(1, 2, 4, 8), help="numbers of losses")
    parser.add_argument("--micro", type=_count, default=8192, help="samples per micro-step")
    parser.add_argument("--rounds", type=_count, default=5, help="how often every way is timed")
    parser.add_argument("--quick", action="store_true", help="only show that it works: 1 and 3 tasks, half as large")
    parser.add_argument(
        "--write", nargs="?", type=Path, const=RESULTS, metavar="FILE", help=f"RESULTS.md and {PICTURE}"
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


if __name__ == "__main__":
    main(sys.argv[1:])
