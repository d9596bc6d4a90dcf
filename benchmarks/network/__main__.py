"""What a slow link costs, with and without `no_sync`, beside what it must cost.

Two hosts made of network namespaces; only root can make them.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.network.case import RATES, Link, table
from benchmarks.network.measure import Settings
from benchmarks.network.results import results_page
from launcher.launch.environ import allocator_environment
from tests.hosts.network import Hosts, hosts

PROGRAM = "python -m benchmarks.network"
RESULTS = Path(__file__).with_name("RESULTS.md")
_K = (1, 4, 16)
_UPDATES = {"1gbit": (20, 12, 8), "100mbit": (6, 6, 5)}
_WITHOUT = {"1gbit": (20, 8, 3), "100mbit": (6, 2, 1)}
_PORT = 29500


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        sys.exit(f"{PROGRAM}: only root can make hosts of network namespaces")
    links = []
    with hosts(2) as two:
        for link in options.link:
            settings = Settings(link, _K, options.rounds, _UPDATES[link], _WITHOUT[link])
            if options.quick:
                settings = Settings(link, (1, 4), 1, (2, 2), (1, 1))
            links.append(measured(two, settings))
    print(table(links))
    if options.write:
        options.write.write_text(results_page(links, shlex.join([*PROGRAM.split(), *arguments])))


def measured(two: Hosts, settings: Settings) -> Link:
    """Shape the links of two hosts and run a rank on each.

    Raises:
        CalledProcessError: a rank has failed.
    """
    two.shape(settings.link)
    with TemporaryDirectory() as folder:
        out = Path(folder) / "link"
        command = [sys.executable, "-m", "benchmarks.network.measure", json.dumps(asdict(settings)), str(out)]
        ranks = [
            subprocess.Popen(two.on(rank, *command), env={**os.environ, **_environment(two, rank)}) for rank in (0, 1)
        ]
        for rank in ranks:
            if rank.wait():
                raise subprocess.CalledProcessError(rank.returncode, command)
        link: Link = pickle.loads(out.read_bytes())
    return link


def _environment(two: Hosts, rank: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": two.addresses[0],
        "MASTER_PORT": str(_PORT),
        "OMP_NUM_THREADS": "1",
        **allocator_environment(os.environ),  # as the launcher's ranks have it
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(PROGRAM, description="What a slow link costs, with and without no_sync.")
    parser.add_argument("--link", nargs="+", choices=RATES, default=tuple(RATES), help="rates of the links")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each loop")
    parser.add_argument("--quick", action="store_true", help="only show that it works: K = 1 and 4, one round")
    parser.add_argument("--write", nargs="?", type=Path, const=RESULTS, metavar="FILE", help="write RESULTS.md")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
