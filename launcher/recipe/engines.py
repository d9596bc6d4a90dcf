"""What each engine can: the one table that the plan, the checks and the documentation read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

EngineName = Literal["ddp", "accelerate", "deepspeed", "fsdp"]
Reduces = Literal["boundary", "micro-step", "choice"]


@dataclass(frozen=True)
class Abilities:
    """What an engine can.

    Attributes:
        holds: how the ranks hold the model, in words.
        reduces: gradients cross the network at the boundary only, in every micro-step, or as the recipe chooses.
        unequal_steps: ranks may have different numbers of micro-steps; else those with fewer fill theirs up with
            micro-steps of weight zero, which take as long as others.
        several_backwards: losses may go backward one by one (`multitask.backward: sequential` and `shared`).
        proves: `launcher prove` can read the gradients.
        elastic: machines may come and go (`launch.nodes: "1:4"`).
        exact: bits need not depend on the number of ranks (`train.determinism: exact`).
        unused_parameters: forward passes may leave parameters out (`parallel.find_unused_parameters`).
        sync_batchnorm: BatchNorm may take its statistics from all ranks (`parallel.sync_batchnorm`).
        recovers_memory: a rank that runs out of memory in a forward or backward leaves no other waiting there, so that
            sizes can be tried (`batch.micro: auto`).
        wide_gradients: gradients of half-precision parameters may be added up in fp32 (`train.accumulate_dtype`).
        compiles: the model may be compiled (`train.compile`).
    """

    holds: str
    reduces: Reduces
    unequal_steps: bool
    several_backwards: bool
    proves: bool
    elastic: bool
    exact: bool
    unused_parameters: bool
    sync_batchnorm: bool
    recovers_memory: bool
    wide_gradients: bool = False
    compiles: bool = False


_DDP = Abilities(
    holds="each rank a whole copy",
    reduces="boundary",
    unequal_steps=True,
    several_backwards=True,
    proves=True,
    elastic=True,
    exact=True,
    unused_parameters=True,
    sync_batchnorm=True,
    recovers_memory=True,
    wide_gradients=True,
    compiles=True,
)
_ACCELERATE = Abilities(
    holds="each rank a whole copy, wrapped by accelerate",
    reduces="boundary",
    unequal_steps=True,
    several_backwards=False,
    proves=True,
    elastic=True,
    exact=False,
    unused_parameters=True,
    sync_batchnorm=True,
    recovers_memory=False,
    compiles=True,
)
_SHARDED = Abilities(
    holds="parameters, gradients and optimizer state in parts",
    reduces="choice",
    unequal_steps=False,
    several_backwards=False,
    proves=False,
    elastic=True,
    exact=False,
    unused_parameters=False,
    sync_batchnorm=False,
    recovers_memory=False,
)
_ZERO_HOLDS = (
    "each rank a whole copy",
    "optimizer state in parts",
    "gradients and optimizer state in parts",
    "parameters, gradients and optimizer state in parts",
)


def engine_table() -> dict[str, Abilities]:
    """Every engine by the name that people call it; DeepSpeed by ZeRO stage."""
    zero = {f"deepspeed, ZeRO {stage}": abilities_of("deepspeed", stage) for stage in range(4)}
    return {"ddp": _DDP, "accelerate": _ACCELERATE, **zero, "fsdp": _SHARDED}


def abilities_of(name: EngineName, zero_stage: int = 0) -> Abilities:
    """What an engine can.

    Args:
        name: the engine.
        zero_stage: of DeepSpeed, 0 to 3 (Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion
            Parameter Models"). From 2 on gradients are reduced in every micro-step, since no rank keeps them whole.
    """
    if name == "deepspeed":
        return Abilities(
            holds=_ZERO_HOLDS[zero_stage],
            reduces="boundary" if zero_stage < 2 else "micro-step",
            unequal_steps=zero_stage < 2,
            several_backwards=False,
            proves=False,
            elastic=True,
            exact=False,
            unused_parameters=False,
            sync_batchnorm=False,
            recovers_memory=False,
        )
    return {"ddp": _DDP, "accelerate": _ACCELERATE, "fsdp": _SHARDED}[name]


def engines_that(can: Callable[[Abilities], bool]) -> str:
    """The names of the engines that can do something, for a cure: `ddp` or `ddp or fsdp`."""
    names: tuple[EngineName, ...] = ("ddp", "accelerate", "deepspeed", "fsdp")
    return " or ".join(name for name in names if can(abilities_of(name)))
