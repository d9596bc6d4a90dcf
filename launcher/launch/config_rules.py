"""Where a user's own accelerate config file says something else than the recipe, and where accelerate reads past it.

One of the two would win without a word: what the file says of the batch would not be what is trained, or the recipe's
engine would find the processes prepared for another. The rules follow accelerate 1.15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from launcher.launch import section_rules
from launcher.launch.contradiction import Contradiction, differing, is_true, shown
from launcher.launch.deepspeed_file import deepspeed_file
from launcher.launch.precision import MIXED_PRECISION
from launcher.plan.planner import Plan

_ENGINES = {"FSDP": "fsdp", "DEEPSPEED": "deepspeed"}  # distributed_type → the engine of ours that it is for


def contradictions(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    """Everything in a config file that contradicts the plan.

    Args:
        plan: the plan.
        config: what the file says.
    """
    unreadable = [*_no_numbers(config), *section_rules.no_sections(config)]
    yield from unreadable
    found = {each.key for each in unreadable}
    readable = {key: value for key, value in config.items() if key not in found}
    rules = _RULES if plan.recipe.script is None else (*_RULES_OF_ALL, deepspeed_file)
    for rule in rules:
        yield from rule(plan, readable)


def ignored(config: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each key that accelerate does not read from a file, where it says more than the default."""
    several = config.get("num_machines", 1) != 1
    said = {
        "rdzv_backend": str(config.get("rdzv_backend", "static")) != "static",
        "same_network": several and "same_network" in config,
        "enable_cpu_affinity": is_true(config.get("enable_cpu_affinity")),
        "downcast_bf16": is_true(config.get("downcast_bf16")),
    }
    for key, matters in said.items():
        if matters:
            yield f"accelerate takes no {key} from a config file: {key}={shown(config[key])} does nothing."


def _no_numbers(config: Mapping[str, Any]) -> Iterator[Contradiction]:
    """What accelerate counts with, and is no whole number: it would divide a text, or start one process for true."""
    for key in ("num_processes", "num_machines", "machine_rank"):
        value = config.get(key)
        if isinstance(value, str) and value.strip().isdecimal():
            cure = f"Write {int(value)}, without quotes"
            yield Contradiction(key, f"is the text {value!r}, and accelerate counts with it", cure)
        elif value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            what = "a list" if isinstance(value, list) else "a section" if isinstance(value, dict) else shown(value)
            yield Contradiction(key, f"is {what}, and accelerate counts with it", "Write a whole number, or delete it")


def _where_it_runs(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    where = config.get("compute_environment", "LOCAL_MACHINE")
    if where != "LOCAL_MACHINE":
        yield Contradiction(
            "compute_environment",
            f"is {shown(where)}, and the recipe runs on machines of your own",
            "Write LOCAL_MACHINE",
        )
    if config.get("mpirun_config"):
        yield Contradiction("mpirun_config", "starts processes by mpirun, which know nothing of the run", "Delete it")


def _processes(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    nodes, world = plan.topology.nodes, plan.topology.world_size
    processes, machines, rank = (config.get(key) for key in ("num_processes", "num_machines", "machine_rank"))
    if processes is not None and processes != world:
        yield Contradiction(
            "num_processes",
            f"is {shown(processes)}, and the plan has {world}: launch.nodes × launch.nproc_per_node = "
            f"{nodes} × {plan.topology.nproc_per_node}",
            f"Write {world} (it counts the processes of all machines), or set "
            f"launch.nproc_per_node={processes // nodes}",
        )
    if machines is not None and machines != nodes:
        yield Contradiction(
            "num_machines",
            f"is {shown(machines)}, and the recipe has launch.nodes={nodes}",
            f"Write {nodes}, or set launch.nodes={shown(machines)}",
        )
    if nodes == 1 and rank not in (None, 0):
        yield Contradiction("machine_rank", f"is {shown(rank)}, and there is one machine, which is 0", "Write 0")


def _precision(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    ours = plan.recipe.train.precision
    value = config.get("mixed_precision")
    if value is not None and str(value).lower() != MIXED_PRECISION[ours]:
        theirs = {name: precision for precision, name in MIXED_PRECISION.items()}.get(str(value).lower())
        yield Contradiction(
            "mixed_precision",
            f"is {shown(value)}, and the recipe has train.precision={ours}",
            f"Write {MIXED_PRECISION[ours]!r}" + (f", or set train.precision={theirs}" if theirs else ""),
        )
    elif is_true(config.get("fp16")) and ours != "fp16":
        yield Contradiction(
            "fp16", f"is true, and the recipe has train.precision={ours}", "Delete it, or set train.precision=fp16"
        )


def _device(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    device, ids = plan.topology.device, config.get("gpu_ids")
    if is_true(config.get("use_cpu")):
        if device != "cpu":
            yield Contradiction(
                "use_cpu", f"is true, and the run is on {device}", "Write false, or set launch.device=cpu"
            )
        elif plan.topology.world_size > 1:
            yield Contradiction(
                "use_cpu",
                f"is true, with which accelerate starts one process, and the plan has {plan.topology.world_size}",
                "Write false, and distributed_type: MULTI_GPU: launch.device=cpu does the rest",
            )
    if ids is None or str(ids) == "all":
        return
    number = len(str(ids).split(","))
    if device == "cpu":
        yield Contradiction("gpu_ids", f"is {ids}, and the run is on cpu", "Delete it, or set launch.device=cuda")
    elif number < plan.topology.nproc_per_node:
        yield Contradiction(
            "gpu_ids",
            f"names {number}, and launch.nproc_per_node is {plan.topology.nproc_per_node}",
            f"Write all, or set launch.nproc_per_node={number}",
        )


def _one_process_for_several(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    kind, world = str(config.get("distributed_type", "MULTI_GPU")), plan.topology.world_size
    if world > 1 and kind in ("NO", "MULTI_CPU"):
        yield Contradiction(
            "distributed_type",
            f"is {kind}, with which accelerate starts one process, and the plan has {world}",
            "Write MULTI_GPU, also on a CPU: launch.device says where the run is",
        )


def _engine(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    engine, kind = plan.recipe.parallel.engine, str(config.get("distributed_type", "MULTI_GPU"))
    wanted = _ENGINES.get(kind)
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU") and wanted != engine:
        other = f", or set parallel.engine={wanted}" if wanted else ""
        yield Contradiction(
            "distributed_type",
            f"is {kind}, and the recipe has parallel.engine={engine}",
            f"Write MULTI_GPU{other}",
        )
    for name, of in (("fsdp", "fsdp"), ("deepspeed", "deepspeed"), ("megatron_lm", None), ("fp8", None)):
        if config.get(f"{name}_config") and engine != of and (of is None or wanted != of):
            yield Contradiction(
                f"{name}_config",
                f"is given, and the recipe has parallel.engine={engine}",
                "Delete it" + (f", or set parallel.engine={of}" if of else ""),
            )


def _all_are_data_parallel(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    if config.get("parallelism_config"):
        yield Contradiction("parallelism_config", "is given, and the plan's ranks are all data-parallel", "Delete it")


def _accumulation(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    yield from differing(
        config,
        "deepspeed_config",
        "gradient_accumulation_steps",
        plan.batch.accumulation,
        f"the plan takes {plan.batch.accumulation} micro-steps (batch.global and batch.micro)",
    )


_Rule = Callable[[Plan, Mapping[str, Any]], Iterator[Contradiction]]
_RULES_OF_ALL: tuple[_Rule, ...] = (
    _where_it_runs,
    _processes,
    _precision,
    _device,
    _one_process_for_several,
    _accumulation,
    _all_are_data_parallel,
)
# A script has the engine that the file prepares; a task has the recipe's.
_RULES: tuple[_Rule, ...] = (
    *_RULES_OF_ALL,
    _engine,
    section_rules.compiling,
    section_rules.deepspeed,
    section_rules.fsdp,
)
