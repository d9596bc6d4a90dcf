"""What the launches of a run have come to: the next one plans with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.plan.fitting import Findings, FoundMicro
from launcher.plan.past import Past
from launcher.plan.planner import Plan, with_found, with_past
from launcher.plan.windows import Stage
from launcher.recipe.schema import Recipe


@dataclass(frozen=True)
class History:
    """What is known of a run from the launches before.

    Attributes:
        past: the windows that it had taken when it was forked to others.
        found: the micro-batches that it has found by trying.
    """

    past: tuple[Stage, ...] = ()
    found: tuple[FoundMicro, ...] = ()

    @staticmethod
    def read(past: Path, fitting: Path, recipe: Recipe) -> History:
        """What the files of a run hold for a recipe.

        Args:
            past: the file of the windows before a fork.
            fitting: the file of the micro-batches that were found.
            recipe: the recipe to go on with.
        """
        return History(Past.read(past).stages, Findings.read(fitting, recipe))

    def of(self, plan: Plan) -> Plan:
        """The plan again, with it."""
        plan = with_past(plan, self.past) if self.past else plan
        return with_found(plan, self.found) if self.found else plan
