"""The daemon of these tests and the image of the project: made before the first, and after the last nothing is left.

With TEST_DOCKER_HOST set to the address of a daemon that has the image launcher:test already, that one is used.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.debian import need
from tests.docker.daemon import Daemon, programs_are_there
from tests.docker.image import IMAGE, NoImageError, build, make_base

_PACKAGES = ("docker.io", "iptables", "docker-compose", "debootstrap")


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """A daemon without an image."""
    if given := os.environ.get("TEST_DOCKER_HOST"):
        yield Daemon(Path(given.removeprefix("unix://")).parent)
        return
    if os.geteuid() != 0:
        pytest.skip("only root can start a Docker daemon")
    for package in _PACKAGES:
        need(package, partial(_installed, package))
    if not programs_are_there():
        pytest.skip(f"{', '.join(_PACKAGES)} are installed, and still there is no daemon to start")
    folder = Path(tempfile.mkdtemp(prefix="docker-"))  # not below pytest's, which would be too long for a socket
    made = Daemon(folder)
    try:
        try:
            made.start()
        except TimeoutError as error:
            pytest.skip(f"a Docker daemon cannot run here: {str(error).strip().splitlines()[-1:]}")
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def image(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of docker/Dockerfile, which the daemon has."""
    if not os.environ.get("TEST_DOCKER_HOST"):
        try:
            make_base(daemon, tmp_path_factory.mktemp("base"))
            build(daemon, tmp_path_factory.mktemp("image"))
        except NoImageError as error:
            pytest.skip(str(error))
    return IMAGE


@pytest.fixture
def docker(daemon: Daemon, image: str) -> Iterator[Daemon]:
    """The daemon with the image; no container runs when a test has ended."""
    yield daemon
    left = daemon.docker("ps", "--quiet").stdout.split()
    for container in left:
        daemon.docker("rm", "--force", container)
    assert left == []


def _installed(package: str) -> bool:
    return programs_are_there() or Path(f"/var/lib/dpkg/info/{package}.list").exists()
