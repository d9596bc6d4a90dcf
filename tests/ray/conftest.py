"""The Ray of these tests: installed for them where it is not, started before the first, ended after the last."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.ray.cluster import RayCluster

_WANTED = "ray[default,train]>=2.51"
_PATIENCE = 900  # seconds, for some 400 MB


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    packages = None if find_spec("ray") else _installed(tmp_path_factory.mktemp("packages"))
    made = RayCluster(packages)
    try:
        made.start()
        yield made
    finally:
        print(made.log())
        made.stop()


def _installed(folder: Path) -> Path:
    """Ray in a folder of its own: nobody's environment is changed for a test."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), _WANTED]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{_WANTED} could not be installed within {_PATIENCE} seconds")
    if done.returncode:
        pytest.skip(f"{_WANTED} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    return folder
