"""Prints which keys the installed DeepSpeed knows, as it says itself; for test_deepspeed_keys.py.

python -m tests.plan.deepspeed_knows
"""

from __future__ import annotations

import json
from typing import Any

from deepspeed.runtime import config
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig, DeepSpeedZeroOffloadParamConfig

MODELS = {
    "zero_optimization": DeepSpeedZeroConfig,
    "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
    "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
    "bf16": DeepSpeedBF16Config,
    "fp16": DeepSpeedFP16Config,
}


class Asked(dict[str, Any]):
    """A configuration that notes which keys it is asked for, whether it has them or not."""

    def __init__(self, values: dict[str, Any], words: set[str]) -> None:
        super().__init__(values)
        self.words = words

    def get(self, key: str, default: Any = None) -> Any:
        self.words.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.words.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.words.add(str(key))
        return super().__contains__(key)

    def keys(self) -> Any:
        return self

    def __copy__(self) -> Asked:
        return Asked(self, self.words)


def top_level() -> set[str]:
    """What is asked of a configuration, with ZeRO as a switch and as a section."""
    words: set[str] = set()
    switched: tuple[bool | dict[str, Any], ...] = (True, {})
    for zero in switched:
        config.DeepSpeedConfig(Asked({"train_batch_size": 1, "zero_optimization": zero}, words))
    return words


def of_model(model: Any) -> dict[str, str]:
    """Names of fields → the field that each stands for; itself where it is no other name."""
    names: dict[str, str] = {}
    for name, field in model.model_fields.items():
        more = field.json_schema_extra or {}
        if more.get("deprecated"):
            meant = more["new_param"] if more.get("set_new_param", True) else ""
            names[name] = next((other.alias or meant for key, other in model.model_fields.items() if key == meant), "")
        else:
            names |= {name: field.alias or name, field.alias or name: field.alias or name}
    return names


def main() -> None:
    known = {
        "sections": {section: of_model(model) for section, model in MODELS.items()},
        "top": sorted(top_level()),
        "removed": sorted(config._REMOVED_TOP_LEVEL_CONFIG_KEYS),
        "removed of ZeRO": sorted(config._REMOVED_ZERO_CONFIG_KEYS),
    }
    print(json.dumps(known))


if __name__ == "__main__":
    main()
