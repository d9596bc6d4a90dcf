"""What every mapping of the recipe is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"  # the name of one of the environment


class Section(BaseModel):
    """A mapping of the recipe: frozen, strictly typed, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)
