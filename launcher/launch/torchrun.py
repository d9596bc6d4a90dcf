"""A plan as a `torchrun` command."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.plan.topology import Topology
from launcher.recipe.node_range import NodeRange
from launcher.rundir.layout import RunDirectory

WORKER_MODULE = "launcher.worker.entry"
RENDEZVOUS_PORT = 29400  # torchrun's own
# Seconds. All machines of a meeting are known to live when it is called: one that does not come has died since.
_JOIN_TIMEOUT, _LAST_CALL = 300, 30


@dataclass(frozen=True)
class Meeting:
    """Where and how the machines of a run find each other.

    Where each has its place, ranks follow it and all meet at one port, as people would start it by hand. Where they
    come and go it is torchrun's own elastic rendezvous, which hands out the ranks.

    Attributes:
        endpoint: host and port of the machine that keeps the rendezvous.
        name: of the rendezvous; never the same for two, whose machines must not meet.
        machines: begin with the least when no other comes, and at once with the most.
        address: what the other machines call this one; None lets torchrun find out.
        host: whether this machine keeps the rendezvous; None lets torchrun compare addresses.
        node: the launcher of this machine, by which it knows its own ranks.
        place: the number of this machine, where each has one; that of number 0 is the endpoint.
        interface: by which the machines reach each other, where it is known.
    """

    endpoint: str
    name: str
    machines: NodeRange
    address: str | None = None
    host: bool | None = None
    node: str = ""
    place: int | None = None
    interface: str = ""

    @property
    def host_and_port(self) -> tuple[str, str]:
        """The endpoint in its parts."""
        return endpoint_host(self.endpoint), self.endpoint.rpartition(":")[2]

    @property
    def patience(self) -> str:
        """How long a machine that has its place waits for the others, as torchrun and accelerate take it."""
        return f"timeout={_JOIN_TIMEOUT}"


def endpoint_host(endpoint: str) -> str:
    """The host of HOST:PORT, an IPv6 address without its brackets."""
    return endpoint.rpartition(":")[0].strip("[]")


def torchrun_arguments(topology: Topology, run: RunDirectory, meeting: Meeting | None = None) -> tuple[str, ...]:
    """The arguments of torchrun, without restarts: for one machine, with a free port of its own choosing, or to meet.

    Restarts of its own are of no use to elastic runs either: torchrun ends for good when the machine that keeps the
    rendezvous goes, takes ranks that end first for success when a machine comes, and gives them 30 s to save.
    """
    return (
        "torchrun",
        *(["--standalone"] if meeting is None else _meeting_arguments(meeting)),
        f"--nproc-per-node={topology.nproc_per_node}",
        "--max-restarts=0",
        f"--log-dir={run.agent_files}",
        "-m",
        WORKER_MODULE,
    )


def _meeting_arguments(meeting: Meeting) -> list[str]:
    if meeting.place is not None:
        name, port = meeting.host_and_port
        return [
            f"--nnodes={meeting.machines.most}",
            f"--node-rank={meeting.place}",
            f"--master-addr={name}",
            f"--master-port={port}",
            f"--rdzv-id={meeting.name}",
            f"--rdzv-conf={meeting.patience}",
        ]
    settings = [f"join_timeout={_JOIN_TIMEOUT}", f"last_call_timeout={_LAST_CALL}"]
    if meeting.host is not None:
        settings.append(f"is_host={int(meeting.host)}")
    return [
        f"--nnodes={meeting.machines}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={meeting.endpoint}",
        f"--rdzv-id={meeting.name}",
        f"--rdzv-conf={','.join(settings)}",
        *([] if meeting.address is None else [f"--local-addr={meeting.address}"]),
    ]
