"""A plan as a `torchrun` command."""

from __future__ import annotations

from launcher.plan.topology import Topology
from launcher.rundir.layout import RunDirectory

WORKER_MODULE = "launcher.worker.entry"


def torchrun_arguments(topology: Topology, run: RunDirectory) -> tuple[str, ...]:
    """The arguments of torchrun for one machine: a free port of its own choosing, no restarts."""
    return (
        "torchrun",
        "--standalone",
        f"--nproc-per-node={topology.nproc_per_node}",
        "--max-restarts=0",
        f"--log-dir={run.agent_files}",
        "-m",
        WORKER_MODULE,
    )
