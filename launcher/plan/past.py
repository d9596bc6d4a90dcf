"""What a run was before a fork: its windows up to there stay those that it has taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from launcher.plan.windows import Stage


class Past(BaseModel):
    """The windows that a run had taken when it was forked to others, as its directory keeps them.

    Attributes:
        stages: windows of one size each, in the order in which they were taken; the fork begins after them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[Stage, ...] = ()

    @staticmethod
    def read(path: Path) -> Past:
        """What a file holds; nothing where there is none. That it is damaged is told by the samples taken."""
        try:
            return Past.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            return Past()

    def to_json(self) -> str:
        """As the file holds it."""
        return self.model_dump_json(indent=2)


def up_to(update: int, stages: Iterable[Stage]) -> Iterator[Stage]:
    """The stages of the updates before one.

    Args:
        update: the update, from 0.
        stages: windows of one size each, in order; the last one has as many as are needed.
    """
    left = update
    for stage in stages:
        if left and stage.updates:
            yield replace(stage, updates=min(left, stage.updates))
        left = max(0, left - stage.updates)


def after(update: int, stages: Sequence[Stage]) -> Iterator[Stage]:
    """The stages of the updates from one on.

    Args:
        update: the update, from 0.
        stages: windows of one size each, in order.
    """
    made = update
    for stage in stages:
        if made < stage.updates:
            yield replace(stage, updates=stage.updates - made)
        made = max(0, made - stage.updates)
