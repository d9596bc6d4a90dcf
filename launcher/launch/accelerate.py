"""A plan as an `accelerate launch` command and the config file that it reads."""

from __future__ import annotations

import yaml

from launcher.launch.own_config import own_config
from launcher.launch.precision import mixed_precision
from launcher.launch.torchrun import WORKER_MODULE, Meeting
from launcher.plan.planner import Plan
from launcher.rundir.layout import RunDirectory


def accelerate_arguments(run: RunDirectory, meeting: Meeting | None = None) -> tuple[str, ...]:
    """The arguments of accelerate; always with a config file, or the user's default one would come in.

    The file is the same for all machines: what differs between them are flags.
    """
    config, files = str(run.accelerate_config), str(run.agent_files)
    placed = [] if meeting is None else _meeting_arguments(meeting)
    return ("accelerate", "launch", "--config_file", config, *placed, "--log_dir", files, "-m", WORKER_MODULE)


def _meeting_arguments(meeting: Meeting) -> list[str]:
    name, port = meeting.host_and_port
    return [
        f"--machine_rank={meeting.place}",
        f"--main_process_ip={name}",
        f"--main_process_port={port}",
        f"--rdzv_conf={meeting.patience}",
    ]


def accelerate_config(plan: Plan) -> str:
    """The config file, as YAML: what the user's own one says, if the recipe names one, and the rest from the plan.

    Several processes are MULTI_GPU on a CPU too, with ACCELERATE_USE_CPU in the environment: `use_cpu: true` with
    `num_processes: 2` starts one process and says nothing (accelerate 1.15).

    Raises:
        RequestError: the user's own one contradicts the plan.
    """
    topology = plan.topology
    several = topology.world_size > 1
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU" if several else "NO",
        "mixed_precision": mixed_precision(plan.recipe),
        "num_machines": topology.nodes,
        "num_processes": topology.world_size,
        "use_cpu": topology.device == "cpu" and not several,
    }
    if topology.nodes == 1:
        config["machine_rank"] = 0
        if several:
            config["main_process_port"] = 0
    own = own_config(plan)
    return yaml.safe_dump({**config, **(own.values if own else {})}, sort_keys=True)
