"""The environment of a launch. The only place that decides what a worker finds in its variables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from launcher.launch.precision import mixed_precision
from launcher.launch.torchrun import Meeting
from launcher.plan.planner import Plan
from launcher.plan.topology import Machine
from launcher.rundir.generation import AFTER
from launcher.rundir.generation import VARIABLE as GENERATION
from launcher.rundir.layout import RunDirectory

# What containers are given of the environment besides what the recipe names, where it is set. Paths of this machine are
# not among them.
_FOR_CONTAINERS = (
    "CUDA_VISIBLE_DEVICES", "GLIBC_TUNABLES", "HF_HUB_OFFLINE", "HF_TOKEN", "NO_PROXY", "OMP_NUM_THREADS",
    "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
_FAMILIES_FOR_CONTAINERS = ("GLOO_", "MALLOC_", "NCCL_")

# Bytes. glibc accepts no larger threshold for memory of its own, and would by itself arrive at it after a while; but a
# threshold that is set stays, so both have to be.
_MAPPED_ALONE = 32 * 2**20
_KEPT = 2**30  # more than what the micro-steps of a model on CPUs give back in pieces below that


def container_environment(inherited: Mapping[str, str], named: Iterable[str], user: str) -> tuple[list[str], list[str]]:
    """The variables of a container: those with their values, and the names of those that it takes from here.

    The value of a variable of the environment stands nowhere: it may be a secret.

    Args:
        inherited: the environment here.
        named: more variables to take from it.
        user: whose processes they are; a container may not know its number.
    """
    ours = {name for name in inherited if name in _FOR_CONTAINERS or name.startswith(_FAMILIES_FOR_CONTAINERS)}
    return ["HOME=/tmp", f"USER={user}"], sorted({*ours, *named})


def generation_environment(number: int, after: int | None) -> dict[str, str]:
    """The variables that tell workers which launch of the run they belong to, and after which update it goes on."""
    return {GENERATION: str(number), **({} if after is None else {AFTER: str(after)})}


def allocator_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The variables that let a rank on CPUs keep the memory that a micro-step frees, for the next one.

    glibc gives what is free at the end of its heap back to the kernel, and takes it again page by page, each filled
    with zeros. Whether the end of the heap happens to be free differs from run to run, and with it the seconds of a
    micro-step. Other C libraries take no notice.

    Args:
        inherited: the environment that the variables are added to; what is set there of glibc's allocator is kept.
    """
    variables = {"MALLOC_MMAP_THRESHOLD_": str(_MAPPED_ALONE), "MALLOC_TRIM_THRESHOLD_": str(_KEPT)}
    if inherited.keys() & variables.keys() or "glibc.malloc." in inherited.get("GLIBC_TUNABLES", ""):
        return {}
    return variables


def launch_environment(
    plan: Plan, run: RunDirectory, machine: Machine, inherited: Mapping[str, str], meeting: Meeting | None = None
) -> dict[str, str]:
    """The variables that a launch adds to what it inherits.

    Args:
        plan: the plan of the run.
        run: its directory.
        machine: where it runs; its cores are shared out among the ranks.
        inherited: the environment that the variables are added to; a thread count set there is kept.
        meeting: where the machines meet, if there are several.
    """
    batch = plan.batch
    variables = {
        "LAUNCHER_RUN_DIR": str(run.path),
        "LAUNCHER_GLOBAL_BATCH": str(batch.global_),
        "LAUNCHER_MICRO_BATCH": str(batch.micro),
        "LAUNCHER_ACCUMULATION": str(batch.accumulation),
        "LAUNCHER_LEARNING_RATE": repr(plan.learning_rate.peak),
        "LAUNCHER_SEED": str(plan.recipe.train.seed),
        # A plain Accelerator() in the user's script takes these before its own arguments.
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": str(batch.accumulation),
        "ACCELERATE_MIXED_PRECISION": mixed_precision(plan.recipe),
        # Restarted workers would else read the addresses of those before them (torch 2.13 with gloo).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # For the last update and its checkpoint; torchrun kills after 30 seconds otherwise (2.12 and before always).
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(plan.recipe.launch.grace)),
        "PYTHONUNBUFFERED": "1",
        # W&B reports its use when a run ends, an offline one too, and waits for its server to take the report.
        "WANDB_ERROR_REPORTING": "false",
    }
    if meeting is not None and meeting.node:
        variables["LAUNCHER_NODE"] = meeting.node
    if meeting is not None and meeting.interface and "GLOO_SOCKET_IFNAME" not in inherited:
        # gloo would look up the name of the machine, which Debian has resolve to a loopback address.
        variables["GLOO_SOCKET_IFNAME"] = meeting.interface
    if plan.length.updates is not None:
        variables["LAUNCHER_UPDATES"] = str(plan.length.updates)
    if plan.recipe.train.exact_ranks is not None:
        # How many threads add up a product changes its bits, and must not follow from the ranks or the machine.
        variables |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    elif "OMP_NUM_THREADS" not in inherited:
        # torchrun sets it to 1, but only for more than one process: that alone would change the bits of a run.
        variables["OMP_NUM_THREADS"] = str(max(1, machine.cpus // plan.topology.nproc_per_node))
    if plan.recipe.parallel.engine == "deepspeed":
        variables["DS_ACCELERATOR"] = plan.topology.device  # it would else take what it finds
        if plan.topology.world_size == 1:
            variables["LOCAL_RANK"] = "0"  # which it asks for, and accelerate does not tell one process
    if plan.topology.device == "cpu":
        variables["ACCELERATE_USE_CPU"] = "true"
        variables["CUDA_VISIBLE_DEVICES"] = ""
        variables |= allocator_environment(inherited)
    return variables
