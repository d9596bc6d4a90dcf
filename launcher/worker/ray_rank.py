"""A worker of Ray Train: it starts one rank of the run, as torchrun would, and waits for its end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.rundir.failure import AgentRecord, WorkerDeath
from launcher.rundir.layout import RunDirectory
from launcher.worker.dist_env import DistEnv, rank_variables

_RANK_MODULE = "launcher.worker.entry"
_LOOK = 0.2  # seconds between two looks at the rank, and for the word to stop


@dataclass(frozen=True)
class RankOrder:
    """What the agent tells each worker.

    Attributes:
        run: the directory of the run.
        arguments: of the rank.
        environment: that it finds, beside its own place: where Ray keeps it. There are secrets in it, and what stands
            in an order itself, Ray's dashboard shows.
        folder: that it begins in, where there is one of that name.
        agent_node: Ray's name of the machine that the agent is on.
    """

    run: str
    arguments: tuple[str, ...]
    environment: Any = field(repr=False)
    folder: str
    agent_node: str


class RankEndedError(Exception):
    """A rank has ended badly; Ray ends the others then."""


def be_rank(config: Mapping[str, Any]) -> None:
    """Start the rank of this worker and wait for its end.

    It is a process of its own: its signals, its memory and its threads are as they are under torchrun. The kernel ends
    it when this one ends.

    Args:
        config: the `RankOrder`, under "order".

    Raises:
        RankEndedError: the rank has ended badly, which its own records and the agent's say.
    """
    import ray

    order: RankOrder = config["order"]
    run, place = RunDirectory(Path(order.run)), _place(order.agent_node)
    sent: Mapping[str, str] = ray.get(order.environment)
    variables = {**os.environ, **sent, **rank_variables(place, *_meeting(place.rank), os.getpid())}
    run.logs.mkdir(parents=True, exist_ok=True)
    with run.agent_log.open("a") as log:
        rank = subprocess.Popen(
            [sys.executable, "-m", _RANK_MODULE, *order.arguments],
            env=variables,
            cwd=order.folder if Path(order.folder).is_dir() else run.path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    code = _wait(rank, run)
    if code:
        with suppress(OSError):  # a disk that fails is no other end than the one that it had
            AgentRecord((WorkerDeath(place.rank, code),)).write(run)
        raise RankEndedError(f"rank {place.rank} has ended with {code}")


def _wait(rank: subprocess.Popen[bytes], run: RunDirectory) -> int:
    """The exit code of a rank, which is told to stop when the agent says so."""
    told = False
    while True:
        with suppress(subprocess.TimeoutExpired):
            return rank.wait(_LOOK)
        if not told and run.stop.exists():
            told = True
            rank.terminate()


def _place(agent_node: str) -> DistEnv:
    """Where Ray has put this worker."""
    import ray
    from ray import train

    context, node = train.get_context(), str(ray.get_runtime_context().get_node_id())
    return DistEnv(
        rank=context.get_world_rank(),
        local_rank=context.get_local_rank(),
        world_size=context.get_world_size(),
        local_world_size=context.get_local_world_size(),
        node="" if node == agent_node else node[:12],
    )


def _meeting(rank: int) -> tuple[str, int]:
    """Where the ranks meet, as rank 0 tells the workers of all."""
    import ray
    from torch import distributed

    told: list[Any] = [None]
    if rank == 0:
        with socket.socket() as listening:
            listening.bind(("", 0))
            told = [(ray.util.get_node_ip_address(), listening.getsockname()[1])]
    distributed.broadcast_object_list(told)
    host, port = told[0]
    return str(host), int(port)
