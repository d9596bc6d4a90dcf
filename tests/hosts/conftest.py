"""The hosts of these tests: made before each, and after it nothing of them is left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.needs import need_hosts
from tests.hosts.network import Hosts, hosts


@pytest.fixture
def two() -> Iterator[Hosts]:
    """Two hosts."""
    need_hosts()
    with hosts(2) as made:
        yield made
