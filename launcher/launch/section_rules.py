"""Where the sections of a user's accelerate config file, which are for one engine each, go against the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launcher.launch.contradiction import Contradiction, differing, same, shown
from launcher.plan.planner import Plan
from launcher.recipe.parallel_section import FsdpSection

# Each section, with a line of the kind that belongs there.
_SECTIONS = {
    "deepspeed_config": "zero_stage: 2",
    "dynamo_config": "dynamo_backend: INDUCTOR",
    "fp8_config": "fp8_format: HYBRID",
    "fsdp_config": "fsdp_version: 2",
    "megatron_lm_config": "megatron_lm_tp_degree: 1",
    "mpirun_config": "mpirun_hostfile: hosts",
    "parallelism_config": "parallelism_config_tp_size: 1",
}
_STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2")  # by number, from 1


def no_sections(config: Mapping[str, Any]) -> Iterator[Contradiction]:
    """What stands where the file has a section, and is none.

    Args:
        config: what the file says.
    """
    for key, line in _SECTIONS.items():
        value = config.get(key)
        if value is not None and not isinstance(value, Mapping):
            what = "a list" if isinstance(value, list) else shown(value)
            yield Contradiction(
                key, f"is {what}, where accelerate has a section of keys", f"Write {key}: {{{line}}}, or delete it"
            )


def compiling(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    """Models that the file compiles and the recipe does not, or the other way round."""
    section, compiles = config.get("dynamo_config") or {}, plan.recipe.train.compile
    for key, value in (
        ("dynamo_backend", config.get("dynamo_backend")),
        ("dynamo_config.dynamo_backend", section.get("dynamo_backend", section.get("backend"))),
    ):
        if value is None or str(value).upper() == ("INDUCTOR" if compiles else "NO"):
            continue
        cure = "Write INDUCTOR, or set train.compile=false" if compiles else "Delete it, or set train.compile=true"
        yield Contradiction(key, f"is {shown(value)}, and the recipe has train.compile={shown(compiles)}", cure)


def deepspeed(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    """The section of DeepSpeed, of a task that it trains."""
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
        yield from differing(config, "deepspeed_config", key, value, f"by {name} it is {says}")
    if "deepspeed_config_file" in (config.get("deepspeed_config") or {}):
        yield Contradiction(
            "deepspeed_config.deepspeed_config_file",
            "names a file of DeepSpeed's, and the recipe has one written",
            "Delete it, and put what it says besides into parallel.deepspeed.config",
        )


def fsdp(plan: Plan, config: Mapping[str, Any]) -> Iterator[Contradiction]:
    """The section of FSDP, of a task that it trains; accelerate takes its keys with fsdp_ before them and without."""
    if plan.recipe.parallel.engine != "fsdp":
        return
    ours = plan.recipe.parallel.fsdp
    section = config.get("fsdp_config") or {}
    for key, value, says in (
        ("fsdp_version", 2, "parallel.engine=fsdp is FSDP2"),
        ("fsdp_sharding_strategy", _strategy(ours), "parallel.fsdp"),
        ("fsdp_reshard_after_forward", ours.reshard_after_forward, "parallel.fsdp.reshard_after_forward"),
        ("fsdp_activation_checkpointing", ours.checkpoint_activations, "parallel.fsdp.checkpoint_activations"),
        ("fsdp_auto_wrap_policy", _policy(ours), "parallel.fsdp.wrap"),
        ("fsdp_transformer_layer_cls_to_wrap", ",".join(ours.wrap), "parallel.fsdp.wrap"),
        ("fsdp_offload_params", False, "parallel.engine=fsdp keeps parameters where they are computed with"),
    ):
        recipe_says = f"by {says} it is {shown(value)}" if says.startswith("parallel.fsdp") else says
        for written in (key, key.removeprefix("fsdp_")):
            said = section.get(written)
            if not (same(said, value) or _same_strategy(key, said, value) or _same_classes(key, said, ours.wrap)):
                yield from differing(config, "fsdp_config", written, value, recipe_says)


def _strategy(ours: FsdpSection) -> str:
    """What FSDP1 calls it."""
    if ours.replicas == "nodes":
        return "HYBRID_SHARD" if ours.reshard_after_forward else "HYBRID_SHARD_ZERO2"
    return "FULL_SHARD" if ours.reshard_after_forward else "SHARD_GRAD_OP"


def _same_strategy(key: str, said: Any, ours: Any) -> bool:
    return key == "fsdp_sharding_strategy" and str(said) == str(_STRATEGIES.index(ours) + 1)


def _policy(ours: FsdpSection) -> str:
    return "TRANSFORMER_BASED_WRAP" if ours.wrap else "NO_WRAP"


def _same_classes(key: str, said: Any, wrap: tuple[str, ...]) -> bool:
    """Whether the file names the same classes, in whatever order."""
    if key != "fsdp_transformer_layer_cls_to_wrap":
        return False
    names = said if isinstance(said, list) else str(said).split(",")
    return {str(name).strip() for name in names} - {""} == set(wrap)


def _offload(wanted: bool) -> str:
    return "cpu" if wanted else "none"
