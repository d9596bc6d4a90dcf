"""A loop of the user's own that was launched from a recipe: what its plan says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat

import torch

from launcher.plan.learning_rate import LearningRatePlan
from launcher.plan.planner import Plan
from launcher.rundir.layout import RunDirectory
from launcher.train.loader import shares_of_rank
from launcher.train.own_loop.counting import Portion


def plan_of_launch(environ: Mapping[str, str]) -> Plan:
    """The plan of the launch that this process is of.

    Raises:
        RuntimeError: it is of none.
    """
    if "LAUNCHER_RUN_DIR" not in environ:
        raise RuntimeError(
            "Accumulator.from_env() takes its numbers from a recipe, and LAUNCHER_RUN_DIR is not set: start this "
            "script with `launcher run RECIPE` (script: {path: ...}), or give the numbers yourself, "
            "Accumulator(model, optimizer, micro_steps=...)"
        )
    return Plan.model_validate_json(RunDirectory.from_environ(environ).plan.read_text(encoding="utf-8"))


def set_planned_rate(optimizer: torch.optim.Optimizer, rate: LearningRatePlan) -> None:
    """Give an optimizer the plan's learning rate; a parameter group of its own rate keeps its ratio to the default."""
    default = optimizer.defaults["lr"]
    for group in optimizer.param_groups:
        group["lr"] = rate.peak * float(group["lr"] / default if default else 1.0)


@dataclass(frozen=True)
class PlannedBatches:
    """This rank's micro-batches of a whole run, as the `batch_sampler` of a torch `DataLoader`.

    Every sample of an epoch comes once, on one rank, in the order of the plan, which no number of ranks changes.

    Attributes:
        plan: the plan, which knows the length of the data.
        rank: this rank.
    """

    plan: Plan
    rank: int

    def __iter__(self) -> Iterator[list[int]]:
        """The sample indices of each micro-batch, epoch after epoch."""
        samples = self.plan.length.data_samples or 0
        for share in shares_of_rank(self.plan.windows(), self.rank, samples, self.plan.recipe.train.seed):
            yield from share.indices()

    def portions(self) -> Iterator[Portion]:
        """How many of them each window takes."""
        for window in self.plan.windows():
            yield Portion(len(window.micro_batches(self.rank)), window.samples)


def even_portions(plan: Plan) -> Iterator[Portion]:
    """The portions of loaders of the user's own, all of whose batches are micro-batches of the plan.

    Raises:
        ValueError: such batches do not add up to the plan's global batch.
    """
    batch = plan.batch
    if batch.global_ != batch.micro * batch.accumulation * batch.world_size:
        raise ValueError(
            f"a global batch of {batch.global_} does not consist of equal batches of {batch.micro} on "
            f"{batch.world_size} ranks: let your DataLoader take its batches from accumulator.sampler()"
        )
    return repeat(Portion(batch.accumulation))
