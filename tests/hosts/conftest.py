"""The hosts of these tests: made before each, and after it nothing of them is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.needs import need_hosts
from tests.hosts.network import Hosts, hosts
from tests.hosts.site import Site


@pytest.fixture
def two() -> Iterator[Hosts]:
    """Two hosts."""
    need_hosts()
    with hosts(2) as made:
        yield made


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Two hosts as Debian makes them that share a folder of runs; nothing runs on them when a test is done."""
    need_hosts()
    with hosts(2, loopback=True) as two:
        made = Site(two, tmp_path)
        yield made
        made.is_quiet()
