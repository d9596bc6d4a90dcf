"""The keys that DeepSpeed's configuration has, by sections: what it would read past or end on is found beforehand."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from launcher.errors import Mistake

VERSION = "0.19"

# Section → the keys that DeepSpeed 0.19.8 reads there, but for those below. Of other sections every key is let through.
KNOWN: dict[str, tuple[str, ...]] = {
    "": (
        "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
        "managed_gradient_accumulation", "optimizer", "scheduler", "gradient_clipping", "zero_optimization",
        "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "bf16", "fp16", "torch_autocast", "data_types",
        "communication_data_type", "seq_parallel_communication_data_type", "prescale_gradients",
        "gradient_predivide_factor", "gradient_allreduce_op", "disable_allgather", "steps_per_print",
        "wall_clock_breakdown", "memory_breakdown", "dump_state", "disable_python_gc", "log_level",
        "activation_checkpointing", "aio", "autotuning", "checkpoint", "comet", "comms_logger", "compile",
        "csv_monitor", "data_efficiency", "data_parallel_size", "dataloader_drop_last", "datastates_ckpt",
        "expert_parallel", "flops_profiler", "hybrid_engine", "pipeline", "sequence_parallel_size", "tensor_parallel",
        "tensorboard", "timers", "use_data_before_expert_parallelism", "vocabulary_size", "wandb",
        "weight_quantization",
    ),
    "zero_optimization": (
        "stage", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "use_multi_rank_bucket_allreduce",
        "allgather_partitions", "allgather_bucket_size", "overlap_comm", "compute_grad_norm", "load_from_fp32_weights",
        "elastic_checkpoint", "offload_param", "offload_optimizer", "zenflow", "sub_group_size",
        "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "stage3_model_persistence_threshold",
        "stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_gather_16bit_weights_on_model_save",
        "stage3_module_granularity_threshold", "stage3_use_all_reduce_for_fetch_params", "stage3_allgather_sequential",
        "ignore_unused_parameters", "legacy_stage1", "round_robin_gradients", "parameter_alignment",
        "zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_nontrainable_weights",
        "zero_quantized_gradients", "memory_efficient_linear", "pipeline_loading_checkpoint", "override_module_apply",
        "log_trace_cache_warnings", "enable_sanity_checks", "save_muon_momentum_buffer_in_memory", "leaf_module",
    ),
    "zero_optimization.offload_optimizer": (
        "device", "nvme_path", "buffer_count", "pin_memory", "pipeline_read", "pipeline_write", "fast_init", "ratio",
        "super_offload", "cpuadam_cores_perc",
    ),
    "zero_optimization.offload_param": (
        "device", "nvme_path", "buffer_count", "buffer_size", "max_in_cpu", "pin_memory",
    ),
    "bf16": (
        "enabled", "immediate_grad_update", "check_grad_overflow", "bf16_master_weights_and_grads",
        "bf16_optimizer_states",
    ),
    "fp16": (
        "enabled", "auto_cast", "loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis",
        "consecutive_hysteresis", "min_loss_scale", "fp16_master_weights_and_grads",
    ),
}  # fmt: skip

# Section → other names that it takes there, each with the key that it stands for.
OTHER_NAMES: dict[str, dict[str, str]] = {
    "": {"bfloat16": "bf16", "allgather_size": "zero_optimization.allgather_bucket_size"},
    "zero_optimization": {
        "cpu_offload": "offload_optimizer",
        "cpu_offload_param": "offload_param",
        "stage3_gather_fp16_weights_on_model_save": "stage3_gather_16bit_weights_on_model_save",
        **{
            key.removeprefix("stage3_"): key
            for key in KNOWN["zero_optimization"]
            if key.startswith("stage3_")
        },
    },
}  # fmt: skip

# Section → the keys that did what it does no more: it ends on them, or reads past.
REMOVED: dict[str, tuple[str, ...]] = {
    "": (
        "amp", "compression_training", "curriculum_learning", "eigenvalue", "elasticity", "graph_harvesting", "nebula",
        "progressive_layer_drop", "quantize_training", "sparse_attention", "sparse_gradients",
    ),
    "zero_optimization": (
        "cpu_offload_use_pin_memory", "mics_hierarchical_params_gather", "mics_shard_size", "zeropp_loco_param",
    ),
}  # fmt: skip


def slips(config: Mapping[str, Any], key: str, section: str = "") -> Iterator[Mistake]:
    """What a user's configuration has that DeepSpeed knows nothing of, or nothing any more.

    Args:
        config: the configuration, or a section of it.
        key: the dotted key of the recipe that holds the configuration.
        section: the dotted key of the section in the configuration; empty for the whole.
    """
    known, other_names = KNOWN[section], OTHER_NAMES.get(section, {})
    for word, value in config.items():
        place = f"{section}.{word}" if section else word
        place = OTHER_NAMES[""].get(place, place)
        if word in REMOVED.get(section, ()):
            yield Mistake(f"{key}.{word}", f"is of no use to DeepSpeed {VERSION} any more", "Delete it")
        elif word not in known and word not in other_names:
            yield Mistake(f"{key}.{word}", f"is no key of DeepSpeed {VERSION}", _cure(str(word), section))
        elif isinstance(value, Mapping) and place in KNOWN:
            yield from slips(value, f"{key}.{word}", place)


def _cure(word: str, section: str) -> str:
    """The key that was meant: one like it in its section, or in another."""
    if near := difflib.get_close_matches(word, KNOWN[section], 1):
        return f"Did you mean {near[0]}?"
    elsewhere = {key: f"{other}.{key}" if other else key for other, keys in reversed(KNOWN.items()) for key in keys}
    near = difflib.get_close_matches(word, elsewhere, 1, cutoff=0.8)
    return f"Did you mean {elsewhere[near[0]]}?" if near else "Delete it"
