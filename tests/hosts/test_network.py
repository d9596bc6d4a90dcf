"""What tests and benchmarks stand on: the hosts are apart, and what is done to their links happens."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.hosts.network import Hosts

SEND = """
import socket
with socket.create_server(("", 5000)) as server:
    print(flush=True)
    server.accept()[0].sendall(bytes({size}))
"""
RECEIVE = """
import socket, sys, time
try:
    taken, began = 0, time.perf_counter()
    with socket.create_connection((sys.argv[1], 5000), timeout=2) as connection:
        while got := connection.recv(1 << 20):
            taken += len(got)
    print(8 * taken / (time.perf_counter() - began) / 1e6)
except OSError as error:
    print(error)
"""


def megabits(hosts: Hosts, size: int = 4_000_000) -> str:
    """How fast the second host sends to the first, in Mbit/s, or why it does not."""
    with subprocess.Popen(hosts.on(1, "python3", "-c", SEND.format(size=size)), stdout=subprocess.PIPE) as sending:
        assert sending.stdout is not None
        sending.stdout.readline()
        receive = hosts.on(0, "python3", "-c", RECEIVE, hosts.names[1])
        told = subprocess.run(receive, capture_output=True, text=True, check=True).stdout
        sending.kill()
    return told.strip()


def test_links_are_shaped_cut_and_restored(two: Hosts) -> None:
    two.shape("100mbit")
    assert 20 < float(megabits(two)) < 110  # the first 256 kB go at once
    two.cut(1)
    assert megabits(two) == "timed out"
    two.restore(1)
    two.shape(None)
    assert float(megabits(two)) > 100


def test_a_host_has_its_name_its_processes_and_nothing_of_this_machine(two: Hosts) -> None:
    asked = "hostname; getent ahosts {} | cut -d ' ' -f 1 | sort -u; tail -n +3 /proc/net/dev | cut -d : -f 1"
    told = subprocess.run(two.on(0, "sh", "-c", asked.format(two.names[0])), capture_output=True, text=True, check=True)
    name, address, *links = told.stdout.split()
    assert (name, address) == (two.names[0], two.addresses[0])
    assert {"lo", "eth0"} <= set(links)

    stays = [subprocess.Popen(two.on(0, "sleep", "600")) for _ in range(2)]
    other = subprocess.Popen(two.on(1, "sleep", "600"))
    two.kill(0)
    assert [process.wait(5) for process in stays] == [-9, -9]
    assert two.pids(0) == []
    assert other.poll() is None
    two.stop()
    assert other.wait(5) == -9
    assert not [path for path in Path("/run/netns").iterdir() if path.name in two.names]
