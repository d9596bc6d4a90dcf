"""The server of these tests: made where it has to be, started before the first, and after the last nothing is left.

With TEST_KUBE_ASSETS set to a folder that has kube-apiserver and etcd, as envtest keeps them, those are used.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.debian import need
from tests.kubernetes.build import NoServerError, programs
from tests.kubernetes.server import Server, kubectl_is_there
from tests.processes import processes_with, wait_until


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        assets = programs()
    except NoServerError as error:
        pytest.skip(str(error))
    if not (assets / "kubectl").exists():
        need("kubernetes-client", kubectl_is_there)
    folder = tmp_path_factory.mktemp("kubernetes")
    made = Server(folder, assets)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        print(made.log())
    wait_until(lambda: not list(processes_with(str(folder))), 10)
