"""What a container of Docker is given that runs a recipe."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from launcher.recipe.section import VARIABLE, Section

IMAGE = r"^[a-z0-9][A-Za-z0-9._/:@-]{0,254}$"
SHARED_MEMORY = r"^[1-9][0-9]{0,8}[kmg]$"
NETWORK = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$"


class DockerSection(Section):
    """What `launcher run --in docker` and `launcher submit --to docker` give the container."""

    image: Annotated[str, Field(pattern=IMAGE)] | None = Field(
        default=None, description="Image to run in; it has the launcher, as the one of docker/Dockerfile."
    )
    shm_size: Annotated[str, Field(pattern=SHARED_MEMORY)] = Field(
        default="8g", description="Shared memory that it may use at most; data.workers and NCCL need more than the 64m "
        "that Docker gives.",
    )  # fmt: skip
    network: Annotated[str, Field(pattern=NETWORK)] | None = Field(
        default=None, description="Network, such as host; null: Docker's own."
    )
    mounts: tuple[str, ...] = Field(
        default=(), strict=False, description="Folders to mount, besides the run's and the task's: /data, or /data:/in."
    )
    env: tuple[Annotated[str, Field(pattern=VARIABLE)], ...] = Field(
        default=(), strict=False, description="Names of more variables of the environment that it is to have."
    )
    stop_timeout: Annotated[int, Field(ge=1, le=86400)] | None = Field(
        default=None, description="Seconds that a run has to save when it is stopped; null: launch.grace + 120."
    )
    options: dict[str, Any] = Field(
        default={}, description='More options of docker run, by their long names: {memory: 64g, cpuset-cpus: "0-7"}.'
    )
