"""The batch arithmetic: from any two of global batch, micro-batch and accumulation to who takes what."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from launcher.errors import Mistake, RequestError
from launcher.plan.fitting import most_micro
from launcher.plan.windows import micro_steps
from launcher.recipe.schema import BatchSection

MAX_RANKS = 2**20
MAX_SAMPLES = 2**62


class BatchPlan(BaseModel):
    """The batch of every full window.

    Attributes:
        global_: samples per update over all ranks.
        micro: samples per micro-step; the last micro-batch of a window may have fewer.
        accumulation: micro-steps of the busiest rank, K.
        world_size: data-parallel ranks, W.
        micro_steps: micro-steps of each rank.
        follows_world: the recipe gives no global batch, so that it changes with the number of ranks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    global_: int = Field(alias="global")
    micro: int
    accumulation: int
    world_size: int
    micro_steps: tuple[int, ...]
    follows_world: bool

    @property
    def efficiency(self) -> float:
        """Share of the ranks' time that is work when all wait for the busiest: 1 where shares are equal."""
        return efficiency(self.global_, self.micro, self.micro_steps)

    @property
    def idle_ranks(self) -> int:
        """Ranks with nothing to do but take part in the reduction."""
        return self.micro_steps.count(0)

    @property
    def smallest_micro_batch(self) -> int:
        """Samples in the smallest micro-batch of a full window."""
        return smallest_micro_batch(self.global_, self.micro)


def efficiency(samples: int, micro: int, steps: Sequence[int]) -> float:
    """Share of the ranks' time that is work in a window, when all wait for the busiest.

    Args:
        samples: samples of the window.
        micro: samples per micro-step.
        steps: micro-steps of each rank.
    """
    return samples / (len(steps) * min(max(steps) * micro, samples))


def smallest_micro_batch(samples: int, micro: int) -> int:
    """Samples in the smallest micro-batch of a window of so many samples."""
    return samples % micro or min(micro, samples)


def solve_batch(
    section: BatchSection, world_size: int, virtual_ranks: int | None = None, found: int | None = None
) -> BatchPlan:
    """Work out the third of global batch, micro-batch and accumulation, and check all three.

    Args:
        section: the recipe's batch, at least two of the three given.
        world_size: data-parallel ranks, W.
        virtual_ranks: those that micro-batches are dealt to first in an exact run, V, which gives global and micro.
        found: the micro-batch that a run has found to fit, which takes the place of one that is larger.

    Raises:
        RequestError: the three contradict each other, with the nearest that agree; or there is no end of ranks.
    """
    if world_size > MAX_RANKS:
        raise _too_many("launch.nodes", f"{world_size:,} ranks", f"{MAX_RANKS:,}")
    batch = _as_asked(section, world_size, virtual_ranks)
    if found is None or found >= batch.micro:
        return batch
    return _plan(batch.global_, found, world_size, batch.follows_world, virtual_ranks)


def _as_asked(section: BatchSection, world_size: int, virtual_ranks: int | None) -> BatchPlan:
    given, accumulation = section.global_, section.accumulation
    if section.micro == "auto":
        # A rule of the recipe: with auto, the global batch is given.
        return _plan(given or 1, most_micro(given or 1, world_size), world_size)
    micro = section.micro
    if given is None:
        product = (micro or 1) * (accumulation or 1) * world_size
        if product > MAX_SAMPLES:
            raise _too_many("batch", f"micro × accumulation × {_ranks(world_size)} = {product} samples", "2**62")
        return _plan(product, micro or 1, world_size, follows_world=True)
    if accumulation is None:
        return _plan(given, min(micro or 1, given), world_size, virtual_ranks=virtual_ranks)
    if micro is None:
        plan = _plan(given, -(-given // (accumulation * world_size)), world_size)
        if plan.accumulation != accumulation:
            raise _no_such_accumulation(given, accumulation, world_size)
        return plan
    product = micro * accumulation * world_size
    if product != given:
        raise _contradiction(given, micro, accumulation, world_size)
    return _plan(given, micro, world_size, virtual_ranks=virtual_ranks)


def _plan(
    global_batch: int, micro: int, world_size: int, follows_world: bool = False, virtual_ranks: int | None = None
) -> BatchPlan:
    steps = micro_steps(global_batch, micro, world_size, virtual_ranks)
    return BatchPlan(
        global_=global_batch,
        micro=micro,
        accumulation=max(steps),
        world_size=world_size,
        micro_steps=steps,
        follows_world=follows_world,
    )


def nearest_multiples(value: int, factor: int) -> tuple[int, ...]:
    """The multiples of `factor` next to `value`, below and above, without zero."""
    below = value // factor * factor
    return tuple(multiple for multiple in (below, below + factor) if multiple)


def _contradiction(given: int, micro: int, accumulation: int, world_size: int) -> RequestError:
    product = micro * accumulation * world_size
    return RequestError(
        [
            Mistake(
                "batch",
                f"micro {micro} × accumulation {accumulation} × {_ranks(world_size)} = {product}, not global {given}",
                f"Give two of the three, such as batch.accumulation=null, or set batch.global={product}",
            )
        ]
    )


def _no_such_accumulation(given: int, accumulation: int, world_size: int) -> RequestError:
    near = " or ".join(f"batch.global={fit}" for fit in nearest_multiples(given, accumulation * world_size))
    return RequestError(
        [
            Mistake(
                "batch",
                f"global {given} cannot be split into {accumulation} micro-steps on {_ranks(world_size)}",
                f"Nearest that divide evenly: {near}; or give batch.micro instead of batch.accumulation",
            )
        ]
    )


def _too_many(key: str, what: str, most: str) -> RequestError:
    return RequestError([Mistake(key, f"{what} are too many", f"A plan has {most} at most")])


def _ranks(world_size: int) -> str:
    return "1 rank" if world_size == 1 else f"{world_size} ranks"
