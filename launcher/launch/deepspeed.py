"""A plan as the configuration file of DeepSpeed, and what must be there before it is started."""

from __future__ import annotations

import json
from importlib.util import find_spec

from launcher.errors import Mistake, RequestError
from launcher.plan.deepspeed import deepspeed_config
from launcher.plan.planner import Plan
from launcher.recipe.schema import Recipe


def deepspeed_json(plan: Plan) -> str:
    """The configuration file, which DeepSpeed's own tools can read."""
    return json.dumps(deepspeed_config(plan.recipe, plan.batch, plan.ahead), indent=2) + "\n"


def refuse_missing_deepspeed(recipe: Recipe) -> None:
    """Make sure, before anything is started, that DeepSpeed is installed where the recipe needs it.

    It is looked for and not imported, which takes seconds.

    Raises:
        RequestError: it is not there.
    """
    if recipe.parallel.engine == "deepspeed" and find_spec("deepspeed") is None:
        cure = "Install it with pip install 'launcher[deepspeed]', or set parallel.engine=ddp"
        raise RequestError([Mistake("parallel.engine", "the package deepspeed is not installed", cure)])
