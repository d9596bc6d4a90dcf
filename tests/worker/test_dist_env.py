"""A rank knows its place by what torchrun says, or what is said in its place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from launcher.worker.dist_env import DistEnv, rank_variables
from tests.processes import clean_environment


def test_a_rank_reads_what_it_is_told() -> None:
    place = DistEnv(rank=3, local_rank=1, world_size=4, local_world_size=2, node="abc")
    told = rank_variables(place, "head", 29400, parent=7)
    assert DistEnv.read(told) == place
    assert (told["MASTER_ADDR"], told["MASTER_PORT"]) == ("head", "29400")


def test_a_rank_ends_without_the_process_that_started_it(tmp_path: Path) -> None:
    """An agent is known by its name; what else starts ranks says which process it is."""
    for parent, end in ((os.getpid(), 1), (os.getppid(), -signal.SIGKILL)):
        told = rank_variables(DistEnv(0, 0, 1), "localhost", 1, parent)
        env = clean_environment(**told, LAUNCHER_RUN_DIR=str(tmp_path))
        command = [sys.executable, "-m", "launcher.worker.entry"]
        assert subprocess.run(command, env=env, check=False, timeout=240).returncode == end
    assert "plan.json" in (tmp_path / "logs" / "rank_0.log").read_text()  # where the first one has failed
