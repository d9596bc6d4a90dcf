"""Programs of Debian's that a test needs: installed where that can be done, or the test is skipped and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

import pytest

_QUIET = {"DEBIAN_FRONTEND": "noninteractive"}


def need(package: str, present: Callable[[], bool]) -> None:
    """Make sure that a package is there.

    Args:
        package: its name.
        present: whether what is needed of it is.
    """
    if present():
        return
    if shutil.which("apt-get") is None:
        pytest.skip(f"{package} is not installed, and there is no apt-get to install it")
    if os.geteuid() != 0:
        pytest.skip(f"{package} is not installed, and only root can: apt-get install {package}")
    install = ["apt-get", "install", "--yes", "--no-install-recommends", package]
    for command in (["apt-get", "update"], install):
        done = subprocess.run(command, env={**os.environ, **_QUIET}, capture_output=True, text=True, check=False)
    if not present():
        pytest.skip(f"{package} cannot be installed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
