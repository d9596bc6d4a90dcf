"""What `launch.method: ray` asks a Ray cluster for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from launcher.recipe.section import Section

RAY_ADDRESS = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,255}$"
PROGRAM = r"^[A-Za-z0-9_./][A-Za-z0-9_./+-]{0,255}$"


class RaySection(Section):
    """A Ray cluster."""

    address: Annotated[str, Field(pattern=RAY_ADDRESS)] | None = Field(
        default=None,
        description="Where jobs are sent (http://HOST:8265); null: the cluster of RAY_ADDRESS, or of this machine.",
    )
    python: Annotated[str, Field(pattern=PROGRAM)] = Field(
        default="python3", description="Python of the cluster that jobs start; it has the launcher."
    )
    cpus_per_rank: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="Cores of each rank; null: one, and one for each of its data.workers."
    )
