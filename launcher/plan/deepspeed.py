"""What DeepSpeed is told: its own configuration, worked out from a recipe and its batch. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.errors import Mistake, RequestError
from launcher.plan.batch import BatchPlan
from launcher.plan.deepspeed_keys import OTHER_NAMES, slips
from launcher.plan.stages import StagePlan
from launcher.recipe.schema import Recipe

_KEY = "parallel.deepspeed.config"
_ELEMENT_BYTES = 4  # DeepSpeed counts the elements of a bucket, the recipe its bytes in fp32

# The key of the recipe that says what a key of DeepSpeed's says.
_SAID_BY = {
    "train_batch_size": "batch.global",
    "train_micro_batch_size_per_gpu": "batch.micro",
    "gradient_accumulation_steps": "batch.global and batch.micro",
    "gradient_clipping": "train.max_grad_norm",
    "bf16": "train.precision",
    "bfloat16": "train.precision",
    "fp16": "train.precision",
    "allgather_size": "parallel.bucket_mb",
    "zero_optimization.stage": "parallel.deepspeed.stage",
    "zero_optimization.reduce_bucket_size": "parallel.bucket_mb",
    "zero_optimization.allgather_bucket_size": "parallel.bucket_mb",
    "zero_optimization.offload_optimizer": "parallel.deepspeed.offload_optimizer",
    "zero_optimization.offload_param": "parallel.deepspeed.offload_parameters",
    "zero_optimization.cpu_offload": "parallel.deepspeed.offload_optimizer",
    "zero_optimization.cpu_offload_param": "parallel.deepspeed.offload_parameters",
}
_ELEMENTS = {"fp32": 4, "bf16": 2, "fp16": 2}  # communication_data_type → bytes of an element
_CHANGE_TRAFFIC = (
    "data_types.grad_accum_dtype",
    "disable_allgather",
    "zero_optimization.stage3_use_all_reduce_for_fetch_params",
    "zero_optimization.zero_hpz_partition_size",
    "zero_optimization.zero_quantized_gradients",
    "zero_optimization.zero_quantized_nontrainable_weights",
    "zero_optimization.zero_quantized_weights",
)
# What would train otherwise than the recipe and its plan say.
_OWNED = {
    "optimizer": "the recipe's section optimizer says it",
    "scheduler": "the recipe's section schedule says it, in updates",
    "amp": "train.precision says it",
    "torch_autocast": "train.precision says it",
    "managed_gradient_accumulation": "the plan says where the window ends",
    "data_efficiency": "the plan says who takes which samples",
    "curriculum_learning": "the plan says who takes which samples",
    "elasticity": "the plan says the batch",
    "autotuning": "the plan says the batch",
    "tensor_parallel": "the plan counts every rank as data-parallel",
    "sequence_parallel_size": "the plan counts every rank as data-parallel",
    "data_parallel_size": "the plan counts every rank as data-parallel",
    "expert_parallel": "the plan counts every rank as data-parallel",
}


def deepspeed_config(recipe: Recipe, batch: BatchPlan, stages: Sequence[StagePlan]) -> dict[str, Any]:
    """The configuration, as DeepSpeed's JSON file has it, with what the recipe adds to it.

    Args:
        recipe: the recipe.
        batch: its worked-out batch.
        stages: its global batches.

    Raises:
        RequestError: `parallel.deepspeed.config` contradicts the recipe, or has keys that DeepSpeed does not know.
    """
    # Told of one micro-step where there are more, it would take, when it offloads, the norm of the last one's gradient.
    own = _own_config(recipe, batch, most_steps=max(max(stage.micro_steps) for stage in stages))
    user = _in_sections(recipe.parallel.deepspeed.config)
    unowned = {key: value for key, value in user.items() if key not in _OWNED}
    mistakes = [*_contradictions(recipe, batch, own, user), *slips(unowned, _KEY)]
    if mistakes:
        raise RequestError(mistakes)
    return _merged(own, _in_own_words(user))


@dataclass(frozen=True)
class ZeroTraffic:
    """What a ZeRO stage hands to the network for each update, of one rank.

    Attributes:
        times: how often the gradients are reduced: once, or in each of the K micro-steps.
        element_bytes: of one element of a gradient as it is reduced: half precision travels as it is, and the user's
            communication_data_type goes before it.
        reduced_bytes: gradients handed to reductions.
        gathered_bytes: parameters that gathers give: once after the step from stage 1 on, since every rank has stepped
            on a part; at stage 3 in each micro-step, before its forward and before its backward pass. There it is the
            most: parameters that are small, or soon needed again, stay whole, and are counted all the same.
        uncounted: the user's keys that may change these bytes in ways that are not counted here.
    """

    times: int
    element_bytes: int
    reduced_bytes: int
    gathered_bytes: int
    uncounted: tuple[str, ...] = ()


def zero_traffic(recipe: Recipe, batch: BatchPlan) -> ZeroTraffic | None:
    """What DeepSpeed hands to the network; None for other engines, for one rank, and for an unknown model.

    Args:
        recipe: the recipe.
        batch: its worked-out batch.
    """
    parameters, train = recipe.model.parameters, recipe.train
    if recipe.parallel.engine != "deepspeed" or batch.world_size == 1 or parameters is None:
        return None
    stage = recipe.parallel.deepspeed.stage
    gathered = 4 if train.precision == "fp32" else 2
    user = recipe.parallel.deepspeed.config
    reduced = _ELEMENTS.get(str(user.get("communication_data_type")), gathered)
    times = batch.accumulation if recipe.parallel.abilities.reduces == "micro-step" else 1
    gathers = (0, 1, 1, 2 * batch.accumulation)[stage]
    uncounted = tuple(key for key in _CHANGE_TRAFFIC if _at(user, key))
    return ZeroTraffic(times, reduced, parameters * reduced * times, parameters * gathered * gathers, uncounted)


def refuse_what_a_cpu_lacks(recipe: Recipe, device: str) -> None:
    """Refuse what DeepSpeed does not do without a GPU.

    Args:
        recipe: the recipe.
        device: where the run trains.

    Raises:
        RequestError: fp16, to which it says "Type fp16 is not supported on your device" (0.19.8).
    """
    if recipe.parallel.engine == "deepspeed" and recipe.train.precision == "fp16" and device == "cpu":
        what = "DeepSpeed does not support fp16 on a CPU"
        raise RequestError([Mistake("train.precision", what, "Set train.precision=bf16, or launch.device=cuda")])


def _own_config(recipe: Recipe, batch: BatchPlan, most_steps: int) -> dict[str, Any]:
    settings, precision = recipe.parallel.deepspeed, recipe.train.precision
    bucket = int(recipe.parallel.bucket_mb * 2**20 / _ELEMENT_BYTES)
    zero: dict[str, Any] = {
        "stage": settings.stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if settings.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch.micro,
        "gradient_accumulation_steps": most_steps,
        "gradient_clipping": recipe.train.max_grad_norm or 0.0,  # left out, it would clip at 1.0
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "zero_allow_untested_optimizer": True,  # those of torch, which the recipe names
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
    }
    if precision == "bf16":
        config["bf16"]["check_grad_overflow"] = recipe.guard.non_finite != "off"
    return config


def _in_sections(user: Mapping[str, Any]) -> dict[str, Any]:
    """The user's configuration, with ZeRO as a section where it is the switch of old: stage 1, or none."""
    zero = user.get("zero_optimization")
    return {**user, "zero_optimization": {"stage": int(zero)}} if isinstance(zero, bool) else dict(user)


def _in_own_words(user: Mapping[str, Any]) -> dict[str, Any]:
    """The user's configuration, which agrees, without other names of what is written: DeepSpeed takes no two."""
    words = {key: value for key, value in user.items() if key not in ("train_batch_size", *OTHER_NAMES[""])}
    if "bfloat16" in user and "bf16" not in user:
        words["bf16"] = user["bfloat16"]
    if isinstance(zero := user.get("zero_optimization"), Mapping):
        written = ("cpu_offload", "cpu_offload_param")
        words["zero_optimization"] = {key: value for key, value in zero.items() if key not in written}
    return words


def _contradictions(
    recipe: Recipe, batch: BatchPlan, own: Mapping[str, Any], user: Mapping[str, Any]
) -> Iterator[Mistake]:
    for key, why in _OWNED.items():
        if key in user:
            yield Mistake(f"{_KEY}.{key}", f"cannot be {json.dumps(user[key])}: {why}", "Delete it")
    settings, zero = recipe.parallel.deepspeed, own["zero_optimization"]
    said = {
        **own,
        "train_batch_size": batch.global_,
        "gradient_allreduce_op": "mean",  # by the number of ranks, for which the loss is multiplied by it
        "bfloat16": own["bf16"],
        "allgather_size": zero["allgather_bucket_size"],
        "zero_optimization": {
            "offload_optimizer": None,
            "offload_param": None,
            "cpu_offload": settings.offload_optimizer,
            "cpu_offload_param": settings.offload_parameters,
            # It puts parameters into the flat tensors in another order than it says they are in: checkpoints would mix
            # them up (seen with 0.19.8).
            "round_robin_gradients": False,
            **zero,
        },
    }
    yield from _differing(said, user, "")


def _differing(own: Mapping[str, Any], user: Mapping[str, Any], path: str) -> Iterator[Mistake]:
    """What the user's configuration says otherwise than the recipe; `auto` agrees with everything."""
    for key, value in user.items():
        place = f"{path}{key}"
        if key not in own or value == "auto" or value == own[key]:
            continue
        if isinstance(own[key], Mapping) and isinstance(value, Mapping):
            yield from _differing(own[key], value, f"{place}.")
            continue
        source = _source(place)
        by = f"by {source} it is" if source else "the launcher sets"
        cure = f"Delete it, and set {source}" if source else "Delete it"
        yield Mistake(f"{_KEY}.{place}", f"is {json.dumps(value)}, and {by} {json.dumps(own[key])}", cure)


def _at(config: Mapping[str, Any], place: str) -> Any:
    """What a configuration has at a dotted key; None where it has nothing."""
    value: Any = config
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _source(place: str) -> str:
    while place and place not in _SAID_BY:
        place = place.rpartition(".")[0]
    return _SAID_BY.get(place, "")


def _merged(own: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(own)
    for key, value in user.items():
        if isinstance(merged.get(key), Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(merged[key], value)
        elif value != "auto" or key not in merged:
            merged[key] = value
    return merged
