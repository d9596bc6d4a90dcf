"""The machine around the ranks: shared memory, limits, ports, names, disk, clock."""

from __future__ import annotations

import ctypes
import fcntl
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from launcher.doctor.finding import Finding, ok, problem, warning
from launcher.words import size

_GIB = 2**30
_SHARED = Path("/dev/shm")
_FILES = 4096  # descriptors: data-loading processes hand over each tensor by one, and each rank has sockets to all
_PROCESSES = 4096
_PORTS = {29400: "torchrun's rendezvous", 29500: "torch.distributed"}
_UNSYNCED = 5  # TIME_ERROR, as adjtimex answers where nobody keeps the clock
_OLDEST = 1_767_225_600  # seconds: the beginning of 2026; a clock before that was never set


def examine_machine(runs: Path) -> Iterator[Finding]:
    """Everything about the machine that can make runs fail or slow.

    Args:
        runs: the folder of all runs, which need not be there.
    """
    yield examine_shared_memory(shutil.disk_usage(_SHARED).total if _SHARED.is_dir() else None)
    yield examine_limit("open files", resource.getrlimit(resource.RLIMIT_NOFILE)[0], _FILES, "ulimit -n")
    yield examine_limit("processes", resource.getrlimit(resource.RLIMIT_NPROC)[0], _PROCESSES, "ulimit -u")
    yield from (examine_port(port, what) for port, what in _PORTS.items())
    yield examine_name(socket.gethostname())
    yield from examine_disk(runs)
    yield examine_clock(_clock_state(), time.time())


def examine_shared_memory(total: int | None) -> Finding:
    """The room in /dev/shm, which NCCL and data-loading processes need.

    Args:
        total: bytes; None where there is none.
    """
    if total is None:
        return warning("shared memory", "there is no /dev/shm", "Mount one, or keep data.workers at 0")
    if total < _GIB:
        cure = "Give a container more: docker run --ipc=host, or --shm-size=16g"
        return warning("shared memory", f"{size(total)} in /dev/shm; NCCL and data.workers may run out of it", cure)
    return ok("shared memory", f"{size(total)} in /dev/shm")


def examine_limit(name: str, soft: int, needed: int, command: str) -> Finding:
    """A limit of this process, which all ranks inherit.

    Args:
        name: of what is limited.
        soft: how many there may be; RLIM_INFINITY for any number.
        needed: fewer are too few for many ranks.
        command: of the shell, that sets it.
    """
    if soft != resource.RLIM_INFINITY and soft < needed:
        return warning(name, f"{soft:,} at most, which many ranks or data.workers need more of", f"{command} {needed}")
    return ok(name, "as many as one likes" if soft == resource.RLIM_INFINITY else f"{soft:,} at most")


def examine_port(port: int, what: str) -> Finding:
    """Whether somebody listens on a port that launches take unless told otherwise."""
    with socket.socket() as trying:
        trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trying.bind(("", port))
        except OSError as error:
            cure = f"End what listens there (ss -ltnp 'sport = :{port}'), or choose another port"
            return warning(f"port {port}", f"cannot be had: {error.strerror} ({what})", cure)
    return ok(f"port {port}", f"free ({what})")


def examine_name(name: str) -> Finding:
    """Whether the name of this machine leads to an address, and one that other machines could use."""
    began = time.monotonic()
    try:
        addresses = sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None)})
    except OSError as error:
        return warning("host name", f"{name} leads nowhere: {error.strerror}",
                       f"Add a line for {name} to /etc/hosts, or machines will not find this one by it")  # fmt: skip
    seconds = time.monotonic() - began
    if seconds > 1:
        return warning(
            "host name", f"{name} takes {seconds:.0f} s to look up", "Put `files` first in /etc/nsswitch.conf"
        )
    shown = f"{name} is {', '.join(addresses)}"
    if all(address.startswith("127.") or address == "::1" for address in addresses):
        cure = "Runs do without it; with several machines, see that the others know this one by its real address"
        return warning("host name", f"{shown}, which no other machine can reach", cure)
    return ok("host name", shown)


def examine_disk(runs: Path) -> Iterator[Finding]:
    """The file system of runs: its room, and whether it has locks, which keep two launches apart."""
    there = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    if not there.is_dir():
        yield problem("runs", f"{there} is a file", "Choose another --runs")
        return
    free = shutil.disk_usage(there).free
    if free < _GIB:
        yield problem("disk", f"{size(free)} free in {there}", "Make room, or choose another --runs")
    elif free < 10 * _GIB:
        yield warning(
            "disk", f"{size(free)} free in {there}", "Make room: a checkpoint has about three times the model"
        )
    else:
        yield ok("disk", f"{size(free)} free in {there}")
    what = "cannot be written"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            what = "has no file locks"
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        yield problem("runs", f"{there} {what}: {error.strerror}", "Choose another --runs")
    else:
        yield ok("runs", f"{there} can be written, and has locks")


def examine_clock(state: int | None, now: float) -> Finding:
    """Whether the clock is kept: what several machines write is put in order by it.

    Args:
        state: as adjtimex answers; None where it cannot be asked.
        now: seconds since 1970.
    """
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < _OLDEST:
        return problem("clock", f"{shown} cannot be", "Set it: certificates and W&B refuse such a time")
    if state == _UNSYNCED:
        return warning("clock", f"{shown}, kept by nobody", "Start an NTP service, such as chrony")
    return ok("clock", f"{shown}, {'kept by a time service' if state is not None else 'not known by whom it is kept'}")


def _clock_state() -> int | None:
    """What the kernel says of its clock, read only."""
    if not sys.platform.startswith("linux"):
        return None
    room = ctypes.create_string_buffer(512)  # a struct timex whose modes are 0: nothing is set
    state = int(ctypes.CDLL(None, use_errno=True).adjtimex(room))
    return state if state >= 0 else None
