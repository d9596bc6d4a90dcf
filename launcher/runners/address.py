"""What other machines call this one."""

from __future__ import annotations

import socket


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


def _sending_address() -> str:
    """Found by asking for a way to some address; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        try:
            sending.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        address: str = sending.getsockname()[0]
    return address
