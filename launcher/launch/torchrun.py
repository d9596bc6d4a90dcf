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
    """Where and how the machines of an elastic run find each other: torchrun's own elastic rendezvous.

    Attributes:
        endpoint: host and port of the machine that keeps the rendezvous.
        name: of the rendezvous; never the same for two, whose machines must not meet.
        machines: begin with the least when no other comes, and at once with the most.
        address: what the other machines call this one; None lets torchrun find out.
        host: whether this machine keeps the rendezvous; None lets torchrun compare addresses.
        node: the launcher of this machine, by which it knows its own ranks.
    """

    endpoint: str
    name: str
    machines: NodeRange
    address: str | None = None
    host: bool | None = None
    node: str = ""


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
