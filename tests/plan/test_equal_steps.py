"""SyncBatchNorm, whose layers wait in each forward pass for those of all other ranks."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.errors import RequestError
from launcher.plan.planner import Plan, make_plan
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe


def planned(world: int = 2, sync_batchnorm: bool = True, samples: int | None = 1024, **batch: Any) -> Plan:
    recipe = Recipe.model_validate(
        {
            "task": {"entry": "package.module:Task"},
            "batch": {"global": 256, "micro": 32, **batch},
            "train": {"updates": 20},
            "data": {"samples": samples},
            "parallel": {"sync_batchnorm": sync_batchnorm},
        }
    )
    return make_plan(recipe, Topology(nodes=1, nproc_per_node=world, device="cuda"))


SCHEDULE = [{"global": 128, "updates": 3}]


@pytest.mark.parametrize(
    ("request_", "why", "cure"),
    [
        ({"world": 3}, "a window of 256 gives", "Nearest that divide evenly: batch.global=192 or 288"),
        (
            {"schedule": [{"global": 96, "updates": 3}], "tail": "drop"},
            "a window of 96 gives",
            "batch.global=64 or 128",
        ),
        ({"samples": 1024 + 96}, "a tail of 96 samples gives", "Set batch.tail=drop"),
        ({"schedule": SCHEDULE}, "the tails of a batch schedule may give", "Set batch.tail=drop"),
    ],
)
def test_unequal_micro_steps_are_refused(request_: dict[str, Any], why: str, cure: str) -> None:
    with pytest.raises(RequestError) as refused:
        planned(**request_)
    (mistake,) = refused.value.mistakes
    assert mistake.key == "parallel.sync_batchnorm"
    assert mistake.wrong.startswith(f"all ranks need the same number of micro-steps, and {why}")
    assert cure in mistake.cure


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"samples": None},
        {"samples": 1024 + 64},
        {"samples": 1024 + 50},
        {"samples": 1024 + 96, "tail": "drop"},
        {"schedule": SCHEDULE, "tail": "drop"},
        {"world": 1, "samples": 1024 + 96},
        {"world": 3, "sync_batchnorm": False},
    ],
)
def test_equal_micro_steps_are_planned(request_: dict[str, Any]) -> None:
    assert planned(**request_).batch.global_ == 256
