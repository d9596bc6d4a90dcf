"""How many processes, on what."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from launcher.errors import Mistake, RequestError
from launcher.recipe.schema import LaunchSection

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Machine:
    """What a machine has to offer: processor cores and GPUs that this process may use."""

    cpus: int
    gpus: int


class Topology(BaseModel):
    """The processes of a job: `nodes` machines with `nproc_per_node` ranks each, all on one kind of device.

    Those of an elastic job are the ones that it has for the time being.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: int
    nproc_per_node: int
    device: Device

    @property
    def world_size(self) -> int:
        """Number of data-parallel ranks, W."""
        return self.nodes * self.nproc_per_node

    def with_nodes(self, nodes: int) -> Topology:
        """The same on another number of machines."""
        return self.model_copy(update={"nodes": nodes})


def this_machine() -> Machine:
    """This machine, without importing torch: cores by affinity, GPUs by the driver and CUDA_VISIBLE_DEVICES."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    driver = Path("/proc/driver/nvidia/gpus")
    gpus = len(list(driver.iterdir())) if driver.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = min(gpus, len([entry for entry in visible.split(",") if entry.strip() not in ("", "-1")]))
    return Machine(cpus, gpus)


def choose_topology(launch: LaunchSection, machine: Machine) -> Topology:
    """The processes that a recipe asks for, on the machine that it gets; of an elastic one, the fewest.

    Raises:
        RequestError: more ranks on GPUs than the machine has GPUs, or GPUs where there are none.
    """
    asked = launch.nproc_per_node
    device: Device = "cuda" if launch.device == "cuda" or (launch.device == "auto" and machine.gpus) else "cpu"
    if device == "cuda" and not machine.gpus:
        raise RequestError([Mistake("launch.device", "this machine has no GPU", "Set launch.device=cpu")])
    processes = (machine.gpus if device == "cuda" else 1) if asked == "auto" else asked
    if device == "cuda" and processes > machine.gpus:
        raise RequestError(
            [
                Mistake(
                    "launch.nproc_per_node",
                    f"{processes} ranks need {processes} GPUs; this machine has {machine.gpus}",
                    f"Set launch.nproc_per_node={machine.gpus}, or launch.device=cpu",
                )
            ]
        )
    return Topology(nodes=launch.machines.least, nproc_per_node=processes, device=device)
