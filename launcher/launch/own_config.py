"""The user's own accelerate config file: read, held against the plan, and filled up with what it leaves open."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import Mistake, RequestError, nearest_mark
from launcher.launch.config_rules import contradictions, ignored
from launcher.plan.planner import Plan
from launcher.recipe.files import shown as shown_path
from launcher.recipe.secret_values import secrets_in
from launcher.recipe.strict_yaml import parse_document

# Of accelerate 1.15; another version may know more, so that only what looks like a slip is refused.
_KEYS = (
    "compute_environment", "distributed_type", "mixed_precision", "use_cpu", "debug", "num_processes", "machine_rank",
    "num_machines", "gpu_ids", "main_process_ip", "main_process_port", "rdzv_backend", "same_network",
    "main_training_function", "enable_cpu_affinity", "fp8_config", "deepspeed_config", "fsdp_config",
    "parallelism_config", "megatron_lm_config", "mpirun_config", "downcast_bf16", "tpu_name", "tpu_zone",
    "tpu_use_cluster", "tpu_use_sudo", "command_file", "commands", "tpu_vm", "tpu_env", "dynamo_config",
    "dynamo_backend", "fp16",
)  # fmt: skip


@dataclass(frozen=True)
class OwnConfig:
    """A config file that goes with its plan.

    Attributes:
        values: what it says.
        ignored: sentences about what accelerate reads past.
    """

    values: Mapping[str, Any]
    ignored: tuple[str, ...]


def own_config(plan: Plan) -> OwnConfig | None:
    """The config file that the recipe names, read now; None where it names none.

    Raises:
        RequestError: it cannot be read, or contradicts the plan; each mistake names the file, the line and the key.
    """
    file = plan.recipe.launch.accelerate.config_file
    if file is None:
        return None
    name = shown_path(Path(file))
    try:
        raw = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        wrong = f"{name} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise RequestError([Mistake("launch.accelerate.config_file", wrong, "Check the path")]) from None
    parsed = parse_document(raw, name, "an accelerate config file", "num_processes: 2")
    lines = {"": name, **{key: f"{name}:{line}" for key, line in parsed.lines.items()}}
    if secrets := list(secrets_in(parsed.value)):  # before any other mistake is told, which could show one
        raise RequestError(secrets).located(lines)
    mistakes = [
        Mistake(key, wrong, cure, nearest_mark(lines, key) or name)
        for key, wrong, cure in (*_slips(parsed.value), *contradictions(plan, parsed.value))
    ]
    if mistakes:
        raise RequestError(mistakes)
    return OwnConfig(parsed.value, tuple(ignored(parsed.value)))


def _slips(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for key in config:
        near = difflib.get_close_matches(key, _KEYS, 1, cutoff=0.8)
        if key not in _KEYS and near:
            yield key, "is no key of an accelerate config file", f"Did you mean {near[0]}?"
    if "gradient_accumulation_steps" in config:
        yield (
            "gradient_accumulation_steps",
            "is no key of an accelerate config file, and the recipe's batch says it",
            "Delete it",
        )
