"""Machines that wait for each other before any starts: all go on together, or one sentence says who is missing."""

from __future__ import annotations

import socket
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import pytest

from launcher.errors import RequestError
from launcher.runners.address import free_port, is_free
from launcher.runners.gathering import MachineMissingError, gathered
from launcher.runners.place import Place
from launcher.runners.supervise import Signals
from tests.processes import wait_until


def come(
    pool: ThreadPoolExecutor, port: int, rank: int, nodes: int = 3, patience: float = 20, recipe: str = "same"
) -> Future[bool]:
    here = f"127.0.0.1:{port}"
    place = Place(rank, nodes, here, here)
    return pool.submit(gathered, place, patience, Signals(), print, "this", recipe)


def test_all_go_on_together_and_the_port_is_free_then() -> None:
    port = free_port()
    with ThreadPoolExecutor() as pool:
        others = [come(pool, port, rank) for rank in (1, 2)]
        first = come(pool, port, 0)
        assert all(future.result(20) for future in (first, *others))
        socket.create_server(("", port)).close()
    assert is_free(port)


def test_a_place_is_taken_once_and_all_mean_the_same_number() -> None:
    port = free_port()
    with ThreadPoolExecutor() as pool:
        first = come(pool, port, 0)
        wait_until(lambda: not is_free(port))
        with socket.create_connection(("127.0.0.1", port), timeout=10) as other:
            other.sendall(b"GET / HTTP/1.1\n")
            assert other.recv(10) == b""  # none of ours
        with pytest.raises(RequestError, match=r"--nodes: is 2, and machine 0 waits for 3 machines. Give all"):
            come(pool, port, 1, nodes=2).result(20)
        with pytest.raises(RequestError, match=r"--recipe: is not what machine 0 has, .* Give all of them the same"):
            come(pool, port, 1, recipe="other").result(20)
        done, going_on = wait([come(pool, port, 1), come(pool, port, 1)], 20, FIRST_COMPLETED)
        with pytest.raises(RequestError, match=r"--node-rank: 1 is taken by another machine. Give each"):
            done.pop().result()
        assert come(pool, port, 2).result(20)
        assert first.result(20)
        assert going_on.pop().result(20)


def test_a_machine_that_has_gone_is_waited_for_again() -> None:
    port = free_port()
    with ThreadPoolExecutor() as pool:
        first = come(pool, port, 0, nodes=2, patience=6)
        with pytest.raises(MachineMissingError, match=r"another machine has not come|machine 0 has not come"):
            come(pool, port, 1, nodes=3, patience=0.0).result(20)
        assert come(pool, port, 1, nodes=2).result(20)
        assert first.result(20)
    with (
        ThreadPoolExecutor() as pool,
        pytest.raises(MachineMissingError, match=r"machine 1 has not come to 127\.0\.0\.1:"),
    ):
        come(pool, free_port(), 0, patience=0.3).result(20)
