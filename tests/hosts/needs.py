"""Whether this machine can play several hosts; tests that need them are skipped where it cannot, and say why."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.debian import need
from tests.hosts.network import hosts


def need_hosts() -> None:
    """Skip the test where hosts cannot be made of namespaces, or their links not be shaped."""
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    need("iproute2", lambda: shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is not None)
    try:
        with hosts(1) as one:
            one.shape("1gbit")
            subprocess.run(one.on(0, "true"), check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as refused:
        pytest.skip(f"no hosts can be made of network namespaces: {refused.stderr.strip()}")
