"""Hosts made of network namespaces: each with a network, a name and an address of its own, on one switch.

Files and processes are those of this machine, as if all hosts had mounted one file system. The switch is a namespace
too, so that nothing is added to the network of this machine.

`python -m tests.hosts.network COMMAND ...` runs a command on the first of two hosts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

# What a process does before it becomes the command: takes the host's name and its own view of who is called what.
# Not `ip netns exec`: it mounts /sys afresh, without cgroups.
_BECOME = """
hostname "$0"
for file in "$1"/*; do mount --bind "$file" "/etc/${file##*/}"; done
shift
exec "$@"
"""
_BRIDGE, _PORT = "bridge0", "eth0"
_BURST, _QUEUE = "256kb", "100ms"  # of a shaped link: what may go at once, and how long a packet may wait


class Hosts:
    """So many hosts, the first being number 0.

    Attributes:
        names: what they call themselves and each other.
        addresses: their addresses.

    Args:
        folder: an empty one, for their files.
        count: how many.
        loopback: whether each knows itself by a loopback address, as Debian has it.
    """

    def __init__(self, folder: Path, count: int = 2, *, loopback: bool = False) -> None:
        mark = uuid4().hex[:6]  # namespaces go by names that are everybody's, and interfaces by short ones
        self._switch = f"sw{mark}"
        self._etc = folder
        self._loopback = loopback
        self.names = [f"h{mark}x{number}" for number in range(count)]
        self.addresses = [f"10.77.0.{number + 1}" for number in range(count)]

    def start(self) -> None:
        """Make them.

        Raises:
            CalledProcessError: the kernel refuses.
        """
        for name in self.names:
            known = {**dict(zip(self.names, self.addresses, strict=True)), "localhost": "127.0.0.1"}
            if self._loopback:
                known[name] = "127.0.1.1"
            etc = self._etc / name
            etc.mkdir()
            (etc / "hosts").write_text("".join(f"{address} {other}\n" for other, address in known.items()))
            # Without it, names that torch looks up backwards are waited for, for ten seconds each.
            (etc / "nsswitch.conf").write_text("hosts: files\n")
        for name in (self._switch, *self.names):
            _ip("netns", "add", name)
        _ip("-n", self._switch, "link", "add", _BRIDGE, "type", "bridge")
        _ip("-n", self._switch, "link", "set", _BRIDGE, "up")
        for name, address in zip(self.names, self.addresses, strict=True):
            _ip("-n", self._switch, "link", "add", name, "type", "veth", "peer", "name", _PORT, "netns", name)
            _ip("-n", self._switch, "link", "set", name, "master", _BRIDGE, "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", _PORT)
            for interface in ("lo", _PORT):
                _ip("-n", name, "link", "set", interface, "up")
            _ip("-n", name, "route", "add", "default", "dev", _PORT)

    def stop(self) -> None:
        """Kill what runs on them, and take them away."""
        for number in range(len(self.names)):
            self.kill(number)
        for name in (self._switch, *self.names):
            with suppress(subprocess.CalledProcessError):  # it was never made
                _ip("netns", "delete", name)

    def on(self, number: int, *command: str) -> list[str]:
        """A command that runs another one on a host; the process stays the same."""
        name = self.names[number]
        become = ["unshare", "--uts", "--mount", "--", "sh", "-c", _BECOME, name, str(self._etc / name), *command]
        return ["nsenter", f"--net=/run/netns/{name}", *become]

    def shape(self, rate: str | None) -> None:
        """Let every host send no faster than a rate, such as `1gbit` or `100mbit`; None takes that back."""
        for name in self.names:
            queue = ["tc", "-n", name, "qdisc"]
            with suppress(subprocess.CalledProcessError):  # there is none
                _call([*queue, "delete", "dev", _PORT, "root"])
            if rate is not None:
                limits = ["rate", rate, "burst", _BURST, "latency", _QUEUE]
                _call([*queue, "add", "dev", _PORT, "root", "tbf", *limits])

    def cut(self, number: int) -> None:
        """Pull the cable of a host: nothing goes out or in, and nobody is told."""
        _ip("-n", self._switch, "link", "set", self.names[number], "nomaster")

    def restore(self, number: int) -> None:
        """Plug it in again."""
        _ip("-n", self._switch, "link", "set", self.names[number], "master", _BRIDGE)

    def kill(self, number: int) -> None:
        """As when the power fails: all that runs on a host is gone at once."""
        while pids := self.pids(number):
            for pid in pids:
                with suppress(ProcessLookupError):  # it has died with another
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def pids(self, number: int) -> list[int]:
        """The processes that run on a host."""
        try:
            return [int(pid) for pid in _ip("netns", "pids", self.names[number]).split()]
        except subprocess.CalledProcessError:  # there is no such host
            return []


@contextmanager
def hosts(count: int = 2, *, loopback: bool = False) -> Iterator[Hosts]:
    """So many hosts, of which nothing is left afterwards.

    Args:
        count: how many.
        loopback: whether each knows itself by a loopback address, as Debian has it.

    Raises:
        CalledProcessError: the kernel refuses; its `stderr` says why.
        FileNotFoundError: `ip` is not installed.
    """
    with TemporaryDirectory() as folder:
        made = Hosts(Path(folder), count, loopback=loopback)
        try:
            made.start()
            yield made
        finally:
            made.stop()


def _ip(*arguments: str) -> str:
    return _call(["ip", *arguments])


def _call(command: Sequence[str]) -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    env = {**os.environ, "PATH": path}
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    with hosts() as two:
        sys.exit(subprocess.run(two.on(0, *sys.argv[1:]), check=False).returncode)
