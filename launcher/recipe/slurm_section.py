"""What a recipe asks Slurm for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from launcher.recipe.section import Section

SLURM_WORD = r"^[A-Za-z0-9][A-Za-z0-9.,_@-]{0,127}$"
SLURM_TIME = r"^([0-9]{1,4}-[0-9]{1,2}:[0-9]{2}:[0-9]{2}|[0-9]{1,4}:[0-9]{2}:[0-9]{2})$"
SLURM_MEMORY = r"^(0|[1-9][0-9]{0,8}[KMGT])$"

_Word = Annotated[str, Field(pattern=SLURM_WORD)]


class SlurmSection(Section):
    """What `launcher submit --to slurm` asks for."""

    partition: _Word | None = Field(default=None, description="Partition to run in; null: the cluster's default.")
    account: _Word | None = Field(default=None, description="Account that pays; null: your default.")
    time: Annotated[str, Field(pattern=SLURM_TIME)] | None = Field(
        default=None, description='Time limit, "4:00:00" or "2-00:00:00" (two days); null: that of the partition.'
    )
    memory: Annotated[str, Field(pattern=SLURM_MEMORY)] | None = Field(
        default=None,
        description='Memory of each machine, such as 64G, or "0" for all of it; null: the cluster\'s default.',
    )
    gpus_per_node: Annotated[int, Field(ge=0, le=4096)] | None = Field(
        default=None, description="GPUs of each machine; null: one for each rank, and none with launch.device=cpu."
    )
    cpus_per_node: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        default=None, description="Cores of each machine; null: one for each rank and each of its data.workers."
    )
    signal_before: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None,
        description="Seconds before the time limit to save, end and queue again; null: launch.grace + 120.",
    )
    container: str | None = Field(
        default=None, description="Image to run in, for the --container-image of srun (pyxis); it has the launcher."
    )
    mounts: tuple[str, ...] = Field(
        default=(), strict=False, description="Folders to mount in the container, besides the run's and the task's."
    )
    options: dict[str, Any] = Field(
        default={}, description="More options of sbatch, by their long names: {qos: high, exclusive: true}."
    )
