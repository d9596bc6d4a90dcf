from __future__ import annotations

from typing import Any

import pytest

from launcher.plan.planner import Plan, make_plan
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.train.loop import evaluation_due


def plan_for(every: str | int, train: dict[str, int], **batch: Any) -> Plan:
    recipe = Recipe.model_validate(
        {
            "task": {"entry": "package.module:Task"},
            "batch": {"global": 40, "micro": 4, **batch},
            "train": train,
            "data": {"samples": 100},
            "eval": {"every": every},
        }
    )
    return make_plan(recipe, Topology(nodes=1, nproc_per_node=1, device="cpu"))


RAMP = [{"global": 10, "updates": 3}, {"global": 20, "samples": 50}]  # windows of 10 10 10 20 20 20 10, then 40 40 20


@pytest.mark.parametrize(
    ("every", "train", "batch", "due"),
    [
        ("epoch", {"epochs": 2}, {}, [3, 6]),
        ("epoch", {"updates": 5}, {}, [3, 5]),
        ("epoch", {"epochs": 2}, {"tail": "drop"}, [2, 4]),
        ("epoch", {"epochs": 3}, {"schedule": RAMP}, [7, 10, 13]),
        ("epoch", {"updates": 9}, {"schedule": RAMP}, [7, 9]),
        ("epoch", {"epochs": 3}, {"schedule": RAMP, "tail": "drop"}, [6, 8, 10]),
        ("end", {"epochs": 2}, {"schedule": RAMP}, [10]),
        (4, {"epochs": 2}, {"schedule": RAMP}, [4, 8, 10]),
    ],
)
def test_evaluation_is_due_at_the_ends_of_epochs_and_of_the_run(
    every: str | int, train: dict[str, int], batch: dict[str, Any], due: list[int]
) -> None:
    plan = plan_for(every, train, **batch)
    assert [window.update + 1 for window in plan.windows() if evaluation_due(plan, window)] == due
