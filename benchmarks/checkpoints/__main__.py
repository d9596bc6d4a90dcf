"""What a checkpoint costs: how long training stands still for it, beside `torch.save` of the same state."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.checkpoints.measure import measure
from benchmarks.checkpoints.results import results_page, table

PROGRAM = "python -m benchmarks.checkpoints"
RESULTS = Path(__file__).with_name("RESULTS.md")


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    if options.quick:
        options.millions, options.rounds = (1,), 2
    sizes = []
    for millions in options.millions:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            sizes.append(measure(millions, options.rounds, Path(folder) / "run"))
    print(table(sizes))
    if options.write:
        options.write.write_text(results_page(sizes, options.rounds, shlex.join([*PROGRAM.split(), *arguments])))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(PROGRAM, description="What a checkpoint costs.")
    parser.add_argument("--millions", nargs="+", type=int, default=(1, 10, 100), help="millions of parameters")
    parser.add_argument("--rounds", type=int, default=7, help="checkpoints in each way")
    parser.add_argument("--folder", type=Path, help="on the disk to write to (default: where temporary files are)")
    parser.add_argument("--quick", action="store_true", help="only show that it works: 1 million, 2 rounds")
    parser.add_argument("--write", nargs="?", type=Path, const=RESULTS, metavar="FILE", help="write RESULTS.md")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
