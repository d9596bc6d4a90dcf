"""The place of this machine in a launch on a fixed number of them, as the engine tells it that started all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.errors import Mistake, RequestError


@dataclass(frozen=True)
class Place:
    """This machine among those of one launch.

    Attributes:
        rank: its number; 0 leads.
        nodes: how many there are.
        launch: what all launchers of this launch call it, and none of another.
    """

    rank: int
    nodes: int
    launch: str


def slurm_place(environ: Mapping[str, str]) -> Place | None:
    """The place in a step of a Slurm job; None where srun has not started this process.

    The launch is named by the job and how often it was queued again: each time all machines begin anew.

    Args:
        environ: the environment of this process.

    Raises:
        RequestError: srun has started more than one launcher on a machine.
    """
    if "SLURM_STEP_ID" not in environ or "SLURM_NODEID" not in environ:
        return None
    nodes, tasks = (int(environ.get(f"SLURM_STEP_NUM_{what}", "1")) for what in ("NODES", "TASKS"))
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
    return Place(int(environ["SLURM_NODEID"]), nodes, ".".join(names))
