from __future__ import annotations

from typing import Any

import pytest

from launcher.plan.planner import make_plan
from launcher.plan.topology import Device, Topology
from launcher.recipe.schema import Recipe


@pytest.mark.parametrize(
    ("device", "compiles", "warned"), [("cpu", True, True), ("cuda", True, False), ("cpu", False, False)]
)
def test_a_compiler_that_was_seen_to_be_wrong_is_named(device: Device, compiles: bool, warned: bool) -> None:
    """Measured on the digits: plain torch.compile gives their convolutions gradients of zero (torch 2.13)."""
    keys: dict[str, Any] = {
        "task": {"entry": "a.b:C"},
        "batch": {"global": 8, "micro": 2},
        "train": {"updates": 1, "compile": compiles},
    }
    topology = Topology(nodes=1, nproc_per_node=2, device=device)
    of_task = make_plan(Recipe.model_validate(keys), topology).warnings
    assert (
        any("gradients of zero" in warning and "the run compares gradients" in warning for warning in of_task) is warned
    )
    keys["script"] = {"path": "train.py"}
    del keys["task"]
    of_script = make_plan(Recipe.model_validate(keys), topology).warnings
    assert (
        any("gradients of zero" in warning and "compare the first losses" in warning for warning in of_script) is warned
    )
