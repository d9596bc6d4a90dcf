"""Where a user's own accelerate config file says something else than the recipe, and where accelerate reads past it.

One of the two would win without a word: what the file says of the batch would not be what is trained, or the recipe's
engine would find the processes prepared for another. The rules follow accelerate 1.15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from launcher.launch.precision import MIXED_PRECISION
from launcher.plan.planner import Plan

_ENGINES = {"FSDP": "fsdp", "DEEPSPEED": "deepspeed"}  # distributed_type → the engine of ours that it is for


class Contradiction(NamedTuple):
    """A key of the file that does not go with the plan.

    Attributes:
        key: dotted key of the file.
        wrong: both values, as a clause.
        cure: what to do, as a sentence.
    """

    key: str
    wrong: str
    cure: str


def contradictions(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    """Everything in a config file that contradicts the plan.

    Args:
        plan: the plan.
        config: what the file says.
    """
    for rule in _RULES if plan.recipe.script is None else _RULES_OF_SCRIPTS:
        yield from rule(plan, config)


def ignored(config: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each key that accelerate does not read from a file, where it says more than the default."""
    several = config.get("num_machines", 1) != 1
    said = {
        "rdzv_backend": str(config.get("rdzv_backend", "static")) != "static",
        "same_network": several and "same_network" in config,
        "enable_cpu_affinity": _is_true(config.get("enable_cpu_affinity")),
        "downcast_bf16": _is_true(config.get("downcast_bf16")),
    }
    for key, matters in said.items():
        if matters:
            yield f"accelerate takes no {key} from a config file: {key}={shown(config[key])} does nothing."


def shown(value: Any) -> str:
    """A value as the file has it."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


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
        of_node = f"launch.nproc_per_node={processes // nodes}" if isinstance(processes, int) else "a number"
        yield Contradiction(
            "num_processes",
            f"is {shown(processes)}, and the plan has {world}: launch.nodes × launch.nproc_per_node = "
            f"{nodes} × {plan.topology.nproc_per_node}",
            f"Write {world} (it counts the processes of all machines), or set {of_node}",
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
    elif _is_true(config.get("fp16")) and ours != "fp16":
        yield Contradiction(
            "fp16", f"is true, and the recipe has train.precision={ours}", "Delete it, or set train.precision=fp16"
        )


def _device(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    device, ids = plan.topology.device, config.get("gpu_ids")
    if _is_true(config.get("use_cpu")):
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


def _compile(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    section, compiles = config.get("dynamo_config") or {}, plan.recipe.train.compile
    for key, value in (
        ("dynamo_backend", config.get("dynamo_backend")),
        ("dynamo_config.dynamo_backend", section.get("dynamo_backend", section.get("backend"))),
    ):
        if value is None or str(value).upper() == ("INDUCTOR" if compiles else "NO"):
            continue
        cure = "Write INDUCTOR, or set train.compile=false" if compiles else "Delete it, or set train.compile=true"
        yield Contradiction(key, f"is {shown(value)}, and the recipe has train.compile={shown(compiles)}", cure)


def _accumulation(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    yield from _differing(
        config,
        "deepspeed_config",
        "gradient_accumulation_steps",
        plan.batch.accumulation,
        f"the plan takes {plan.batch.accumulation} micro-steps (batch.global and batch.micro)",
    )


def _deepspeed(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    if plan.recipe.parallel.engine != "deepspeed":
        return
    ours, norm = plan.recipe.parallel.deepspeed, plan.recipe.train.max_grad_norm
    for key, value, name in (
        ("zero_stage", ours.stage, "parallel.deepspeed.stage"),
        ("gradient_clipping", norm or 0, "train.max_grad_norm"),
        ("offload_optimizer_device", _offload(ours.offload_optimizer), "parallel.deepspeed.offload_optimizer"),
        ("offload_param_device", _offload(ours.offload_parameters), "parallel.deepspeed.offload_parameters"),
    ):
        says = "null" if name == "train.max_grad_norm" and norm is None else value
        yield from _differing(config, "deepspeed_config", key, value, f"by {name} it is {says}")
    if "deepspeed_config_file" in (config.get("deepspeed_config") or {}):
        yield Contradiction(
            "deepspeed_config.deepspeed_config_file",
            "names a file of DeepSpeed's, and the recipe has one written",
            "Delete it, and put what it says besides into parallel.deepspeed.config",
        )


def _fsdp(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    if plan.recipe.parallel.engine != "fsdp":
        return
    ours = plan.recipe.parallel.fsdp
    for key, value, says in (
        ("fsdp_version", 2, "parallel.engine=fsdp is FSDP2"),
        ("fsdp_reshard_after_forward", ours.reshard_after_forward, "parallel.fsdp.reshard_after_forward"),
        ("fsdp_activation_checkpointing", ours.checkpoint_activations, "parallel.fsdp.checkpoint_activations"),
        ("fsdp_transformer_layer_cls_to_wrap", ",".join(ours.wrap), "parallel.fsdp.wrap"),
        ("fsdp_offload_params", False, "parallel.engine=fsdp keeps parameters where they are computed with"),
    ):
        recipe_says = f"by {says} it is {shown(value)}" if says.startswith("parallel.fsdp.") else says
        yield from _differing(config, "fsdp_config", key, value, recipe_says)


def _differing(
    config: Mapping[str, Any], section: str, key: str, ours: Any, recipe_says: str
) -> Iterator[Contradiction]:
    """The value of a key in a section of the file, where it is neither ours nor left open."""
    value = (config.get(section) or {}).get(key)
    same = value is None or str(value).lower() in ("auto", shown(ours).lower()) or _number(value) == _number(ours)
    if not same:
        yield Contradiction(
            f"{section}.{key}", f"is {shown(value)}, and {recipe_says}", "Delete the key, or change the recipe"
        )


def _number(value: Any) -> float | object:
    """A value as a number, where it is one; else something that equals nothing."""
    try:
        return object() if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return object()


def _offload(wanted: bool) -> str:
    return "cpu" if wanted else "none"


def _is_true(value: Any) -> bool:
    """accelerate's own questions are answered with yes and no."""
    return str(value).lower() in ("true", "yes", "1")


_Rule = Callable[[Plan, Mapping[str, Any]], Iterator[Contradiction]]
_RULES_OF_SCRIPTS: tuple[_Rule, ...] = (
    _where_it_runs,
    _processes,
    _precision,
    _device,
    _one_process_for_several,
    _accumulation,
    _all_are_data_parallel,
)
# A script has the engine that the file prepares; a task has the recipe's.
_RULES: tuple[_Rule, ...] = (*_RULES_OF_SCRIPTS, _engine, _compile, _deepspeed, _fsdp)
