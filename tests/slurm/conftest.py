"""The cluster of these tests: started before the first, and after the last nothing of it is left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.debian import need
from tests.processes import processes_with, wait_until
from tests.slurm.cluster import Cluster
from tests.slurm.submitted import Submitted
from tests.wandb_server import WandbServer


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes of two cores: one more than a run needs, which takes the place of one that is lost."""
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons run jobs as other users: only root can start them")
    for package, program in (("slurmctld", "slurmctld"), ("slurmd", "slurmd"), ("slurm-client", "sbatch")):
        need(package, partial(_is_there, program))
    folder = tmp_path_factory.mktemp("slurm")
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
    wait_until(lambda: not list(processes_with(str(folder))), 10)


@pytest.fixture
def jobs(cluster: Cluster, runs: Path) -> Iterator[Cluster]:
    """The cluster, which has no job after a test; what its daemons say is shown with a failure."""
    yield cluster
    left = cluster.call("squeue", "-h").strip()
    print(cluster.log())
    assert left == ""


@pytest.fixture
def it(jobs: Cluster, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    slow = tmp_path_factory.mktemp("pace") / "slow"
    slow.touch()
    return Submitted(jobs, runs, slow)


@pytest.fixture
def logged(it: Submitted) -> Iterator[Submitted]:
    """The same, and logged to a W&B of the test's own."""
    with WandbServer() as server:
        it.server = server
        yield it


def _is_there(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is not None
