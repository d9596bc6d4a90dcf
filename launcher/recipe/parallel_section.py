"""How the ranks of a recipe hold the model together."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from launcher.recipe.engines import Abilities, EngineName, abilities_of
from launcher.recipe.section import Section


class DeepspeedSection(Section):
    """The engine deepspeed."""

    stage: Annotated[int, Field(ge=0, le=3)] = Field(
        default=1, description="ZeRO stage: ranks share out nothing, the optimizer, gradients too, parameters too."
    )
    offload_optimizer: bool = Field(default=False, description="Keep the optimizer's state in the host's memory.")
    offload_parameters: bool = Field(default=False, description="Keep parameters in the host's memory (stage 3).")
    config: dict[str, Any] = Field(
        default={}, description="More of DeepSpeed's own configuration; what the recipe says already is refused."
    )


class FsdpSection(Section):
    """The engine fsdp."""

    wrap: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Classes of the model's blocks, each sharded and gathered on its own; none: the model as a whole.",
    )
    defer_reduction: bool = Field(
        default=True,
        description="Reduce gradients at the boundary only, holding them whole until then; false: in every micro-step.",
    )
    reshard_after_forward: bool = Field(
        default=True, description="Let go of a block's parameters after its forward pass, and gather them again."
    )
    checkpoint_activations: bool = Field(
        default=False, description="Compute each block's forward pass again in its backward, to save memory."
    )
    replicas: Literal["none", "nodes"] = Field(
        default="none", description="Shard over all ranks, or (nodes) within each machine, with a copy on every one."
    )


class ParallelSection(Section):
    """How the ranks hold the model together."""

    engine: EngineName = Field(default="ddp", description="What owns gradient sync.")
    deepspeed: DeepspeedSection = Field(default=DeepspeedSection(), description="The engine deepspeed.")
    fsdp: FsdpSection = Field(default=FsdpSection(), description="The engine fsdp.")
    bucket_mb: Annotated[float, Field(gt=0, le=65536)] = Field(
        default=25.0, description="Size in MiB of a gradient bucket, reduced in one call."
    )
    find_unused_parameters: bool = Field(
        default=False, description="Allow parameters that some forward passes do not use (slower)."
    )
    sync_batchnorm: bool = Field(
        default=False, description="BatchNorm over the micro-batches of all ranks instead of each its own (GPU only)."
    )
    timeout: Annotated[float, Field(gt=0, le=31_536_000)] = Field(
        default=600.0, description="Seconds that a rank waits for the others before it fails; a year at most."
    )

    @property
    def abilities(self) -> Abilities:
        """What the engine can."""
        return abilities_of(self.engine, self.deepspeed.stage)
