"""The place of this machine in a launch on a fixed number of them, as Slurm tells it or whoever starts each by hand."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from launcher.errors import Mistake, RequestError, quoted
from launcher.launch.torchrun import Meeting, endpoint_host
from launcher.recipe.node_range import NodeRange
from launcher.runners.address import interface_towards, is_free, own_address
from launcher.runners.known_host import known_as_own
from launcher.runners.supervise import Signals


@dataclass(frozen=True)
class Place:
    """This machine among those of one launch.

    Attributes:
        rank: its number; 0 leads.
        nodes: how many there are.
        launch: what all launchers of this launch call it, and none of another.
        endpoint: host and port of the first machine at which all meet, where somebody has chosen it; a launch is
            called by it then, and so are those before it.
    """

    rank: int
    nodes: int
    launch: str
    endpoint: str = ""

    @property
    def by_hand(self) -> bool:
        """Whether people have started the launchers, each with a terminal of its own."""
        return bool(self.endpoint)

    def reach(self, patience: float, signals: Signals, say: Callable[[str], None]) -> bool:
        """Wait until the name of machine 0 is known, and refuse an endpoint at which the machines cannot meet.

        Args:
            patience: seconds that the name may take.
            signals: what came for this launcher.
            say: takes a sentence that the user should read.

        Returns:
            Whether it is known: a signal may have come first.

        Raises:
            RequestError: machine 0 cannot listen there.
            HostUnknownError: the name does not become known.
        """
        first, port = endpoint_host(self.endpoint), int(self.endpoint.rpartition(":")[2])
        mine = first.partition(".")[0] == socket.gethostname().partition(".")[0]
        own = known_as_own(first, self.rank == 0 and mine, patience, signals, say)
        wrong, cure = "", ""
        if own is False and self.rank == 0:
            wrong, cure = f"{first} is not this machine, whose --node-rank is 0", "Write what others call it"
        elif own and self.rank == 0 and not is_free(port):
            wrong, cure = f"port {port} of this machine is in use", "Choose another one, on all machines"
        if wrong:
            raise RequestError([Mistake("--rendezvous", wrong, cure)])
        return own is not None


def meeting_at(
    endpoint: str, name: str, machines: NodeRange, *, leads: bool, place: Place | None = None, node: str = ""
) -> Meeting:
    """How this machine meets the others, whatever it is for.

    Args:
        endpoint: host and port of the machine that keeps the rendezvous.
        name: of the rendezvous.
        machines: how many there are, or may be.
        leads: whether this one keeps it.
        place: of this one, where each has one.
        node: the launcher of this machine, by which it knows its own ranks.
    """
    return Meeting(
        endpoint=endpoint,
        name=name,
        machines=machines,
        address=own_address(),
        host=leads,
        node=node,
        place=place.rank if place else None,
        interface=interface_towards(endpoint_host(endpoint)),
    )


_ENDPOINT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]/]+):([0-9]+)")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")


def place_by_hand(nodes: int | None, rank: int | None, rendezvous: str | None) -> Place | None:
    """The place that the flags of a command give; None where there are none of them.

    Args:
        nodes: how many machines there are.
        rank: the number of this one.
        rendezvous: host and port of machine 0.

    Raises:
        RequestError: a flag is missing, or they contradict each other.
    """
    if nodes is None and rank is None and rendezvous is None:
        return None
    mistakes = list(_flag_mistakes(nodes, rank, rendezvous))
    if mistakes or nodes is None or rank is None or rendezvous is None:
        raise RequestError(mistakes)
    return Place(rank, nodes, rendezvous, rendezvous)


def _flag_mistakes(nodes: int | None, rank: int | None, rendezvous: str | None) -> Iterator[Mistake]:
    for flag, value, what in (
        ("--nodes", nodes, "how many machines there are"),
        ("--node-rank", rank, "which of them this is, from 0"),
        ("--rendezvous", rendezvous, "where machine 0 can be reached, as HOST:PORT"),
    ):
        if value is None:
            yield Mistake(flag, f"is missing: it says {what}", "Machines that are started by hand need all three")
    if nodes is not None and nodes < 1:
        yield Mistake("--nodes", f"{nodes} is no number of machines", "Give 1 or more")
    elif nodes is not None and rank is not None and not 0 <= rank < nodes:
        last = f"0 to {nodes - 1}" if nodes > 1 else "0"
        yield Mistake("--node-rank", f"{rank} is none of {nodes} machines", f"They are {last}")
    if rendezvous is not None:
        found = _ENDPOINT.fullmatch(rendezvous)
        if not found or not _is_host(endpoint_host(rendezvous)) or not 0 < int(found[2]) < 65536:
            yield Mistake(
                "--rendezvous",
                f"{rendezvous!r} is no HOST:PORT",
                "Write the name or address of machine 0, and a port there that is free, such as node0:29400",
            )


def _is_host(text: str) -> bool:
    """Whether a text can be a name or an address, known or not."""
    with suppress(ValueError):
        ipaddress.ip_address(text)
        return True
    with suppress(UnicodeError):
        name = text.encode("idna").decode()
        return _NAME.fullmatch(name) is not None and not name.replace(".", "").isdecimal()
    return False


def slurm_place(environ: Mapping[str, str]) -> Place | None:
    """The place in a step of a Slurm job; None where srun has not started this process.

    The launch is named by the job and how often it was queued again: each time all machines begin anew.

    Args:
        environ: the environment of this process.

    Raises:
        RequestError: srun has started more than one launcher on a machine, or a variable of Slurm's is no number.
    """
    if "SLURM_STEP_ID" not in environ or "SLURM_NODEID" not in environ:
        return None
    said = {name: environ.get(name, "1") for name in ("SLURM_NODEID", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NUM_TASKS")}
    if wrong := [Mistake(name, f"is {quoted(value)}, and Slurm sets a number", "Unset SLURM_STEP_ID, or use srun")
                 for name, value in said.items() if not value.isdecimal()]:  # fmt: skip
        raise RequestError(wrong)
    rank, nodes, tasks = map(int, said.values())
    if tasks != nodes:
        raise RequestError(
            [
                Mistake(
                    "srun",
                    f"has started {tasks} launchers on {nodes} of its nodes, and each starts the ranks of a whole one",
                    "Use --ntasks-per-node=1",
                )
            ]
        )
    names = (environ.get("SLURM_JOB_ID", "0"), environ.get("SLURM_RESTART_COUNT", "0"), environ["SLURM_STEP_ID"])
    return Place(rank, nodes, ".".join(names))
