"""What `launcher submit --to skypilot` asks for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from launcher.recipe.section import VARIABLE, Section

SKY_WORD = r"^[A-Za-z0-9*][A-Za-z0-9._*/:@-]{0,255}$"
SkyWord = Annotated[str, Field(pattern=SKY_WORD)]


class SkypilotSection(Section):
    """Machines of a cloud."""

    accelerator: SkyWord | None = Field(
        default=None, description="Kind of GPU, such as H100; each rank gets one. None with launch.device=cpu."
    )
    infra: SkyWord | None = Field(
        default=None, description="Cloud, region and zone (aws/us-east-1); null: what SkyPilot finds cheapest."
    )
    use_spot: bool = Field(default=False, description="Take machines that may be taken away again, for less.")
    image: SkyWord | None = Field(
        default=None, description="Image of the machines, such as docker:NAME; null: SkyPilot's own."
    )
    setup: str | None = Field(
        default=None, description="Shell commands that install the launcher; null: the image has it."
    )
    runs: SkyWord | None = Field(
        default=None, description="Volume (its name) or bucket (s3://NAME) that outlives the machines, for the runs."
    )
    memory: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        default=None, description="Least memory of each machine, in GB; null: what comes with it."
    )
    disk: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        default=None, description="Disk of each machine, in GB; null: SkyPilot's default."
    )
    secrets: tuple[Annotated[str, Field(pattern=VARIABLE)], ...] = Field(
        default=(), strict=False, description="Names of variables to hand on from your environment: [WANDB_API_KEY]."
    )
