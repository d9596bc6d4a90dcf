"""What other machines call this one, and by which of its links they reach it."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from contextlib import suppress

_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


def own_address() -> str:
    """The name of this machine where it can be resolved, and else the address that it would send from."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return _sending_address()
    return name


def free_port() -> int:
    """A port that nobody listens on for now."""
    with socket.socket() as listening:
        listening.bind(("", 0))
        port: int = listening.getsockname()[1]
    return port


def is_own(host: str) -> bool:
    """Whether a name or an address is one of this machine.

    Raises:
        OSError: the name is not known.
    """
    for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
        with suppress(OSError), socket.socket(family, kind) as trying:
            trying.bind(address)
            return True
    return False


def is_free(port: int) -> bool:
    """Whether nobody listens on a port here."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a launch that has just ended
        try:
            listening.bind(("", port))
        except OSError:
            return False
    return True


def interface_towards(host: str) -> str:
    """The interface by which this machine and another one reach each other; empty where that cannot be told.

    Where the other one is this machine and knows itself by a loopback address, as Debian does, it is the interface by
    which it reaches the world.
    """
    address = _sending_address(host)
    if ipaddress.ip_address(address).is_loopback:
        address = _sending_address()
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, suppress(OSError):
            told = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            if socket.inet_ntoa(told[20:24]) == address and name != "lo":
                return name
    return ""


def _sending_address(host: str = "192.0.2.1") -> str:
    """Found by asking for a way to some address; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        try:
            sending.connect((host, 9))
        except OSError:
            return "127.0.0.1"
        address: str = sending.getsockname()[0]
    return address
