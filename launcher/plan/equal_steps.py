"""What needs the same micro-steps on all ranks: SyncBatchNorm, whose layers of all ranks meet in each forward pass."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.errors import Mistake, RequestError
from launcher.plan.batch import BatchPlan, nearest_multiples
from launcher.plan.length import LengthPlan
from launcher.plan.stages import StagePlan
from launcher.plan.windows import micro_steps
from launcher.recipe.schema import Recipe


def refuse_unequal_steps(recipe: Recipe, batch: BatchPlan, stages: Sequence[StagePlan], length: LengthPlan) -> None:
    """Refuse a plan under which a rank with fewer micro-steps than another would leave it waiting for ever.

    Args:
        recipe: the recipe.
        batch: its worked-out batch.
        stages: its global batches.
        length: how long the run is; a tail can be judged once the length of the data is known.

    Raises:
        RequestError: ranks have unequal micro-steps, in a stage or in a tail.
    """
    if not recipe.parallel.sync_batchnorm or batch.world_size == 1:
        return
    for stage in stages:
        if len(set(stage.micro_steps)) > 1:
            near = " or ".join(map(str, nearest_multiples(stage.global_, batch.micro * batch.world_size)))
            raise _refusal(
                f"a window of {stage.global_} gives them unequal ones",
                f"Nearest that divide evenly: batch.global={near}",
            )
    if recipe.batch.tail == "drop":
        return
    if len(stages) > 1:
        raise _refusal("the tails of a batch schedule may give them unequal ones", "Set batch.tail=drop")
    tail = length.tail_samples or 0
    if len(set(micro_steps(tail, batch.micro, batch.world_size))) > 1:
        raise _refusal(f"a tail of {tail} samples gives them unequal ones", "Set batch.tail=drop")


def _refusal(why: str, cure: str) -> RequestError:
    what = f"all ranks need the same number of micro-steps, and {why}"
    return RequestError([Mistake("parallel.sync_batchnorm", what, f"{cure}; or use GroupNorm or LayerNorm")])
