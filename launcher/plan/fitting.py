"""The micro-batch that a run finds by trying: which sizes are worth a try, and which of those that fit is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from launcher.recipe.schema import Recipe

_FIRST = 2  # the first size to try: some models cannot take one sample alone in training
_NEAR = 3 / 4  # of what fits: a smaller micro-batch would cost more than equal shapes are worth


class FoundMicro(BaseModel):
    """A micro-batch that a run has found.

    Attributes:
        since: the first update that has it, from 0.
        micro: samples per micro-step.
        fits: the most that was seen to fit.
        too_large: the least that was seen not to fit; None where all did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: int
    micro: int
    fits: int | None = None
    too_large: int | None = None


def since_then(found: Sequence[FoundMicro], before: int, new: FoundMicro) -> tuple[FoundMicro, ...]:
    """What a run has found by now.

    Args:
        found: what it had found.
        before: the micro-batch that it had until then.
        new: what holds from now on, in place of what had been found for updates to come.
    """
    kept = [each for each in found if each.since < new.since]
    return (*(kept or [FoundMicro(since=0, micro=before)]), new)


class Findings(BaseModel):
    """What the launches of a run have found, as its directory keeps it for those to come.

    Attributes:
        asked: `batch.micro` of the recipe for which it was found.
        engine: the engine with which it was found.
        found: the micro-batches, in the order of the updates from which on they hold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: Literal["auto"] | int | None
    engine: str
    found: tuple[FoundMicro, ...] = ()

    @staticmethod
    def of(recipe: Recipe, found: Sequence[FoundMicro] = ()) -> Findings:
        """What was found for a recipe."""
        return Findings(asked=recipe.batch.micro, engine=recipe.parallel.engine, found=tuple(found))

    @staticmethod
    def read(path: Path, recipe: Recipe) -> tuple[FoundMicro, ...]:
        """What a file holds for a recipe; nothing where there is none, or it is about other choices of the user's."""
        try:
            kept = Findings.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            return ()
        return kept.found if kept.model_copy(update={"found": ()}) == Findings.of(recipe) else ()

    def to_json(self) -> str:
        """As the file holds it."""
        return self.model_dump_json(indent=2)


def most_micro(global_batch: int, world_size: int) -> int:
    """The largest micro-batch that a window can have without a rank that has none.

    Args:
        global_batch: samples of the window.
        world_size: ranks, W.
    """
    share = -(-global_batch // world_size)
    return share if world_size == 1 else max(1, min(share, (global_batch - 1) // (world_size - 1)))


def sizes_between(global_batch: int, world_size: int, fits: int, too_large: int) -> list[int]:
    """The micro-batches between two sizes that are worth a try: the least for each number of micro-steps.

    A larger one with the same number of micro-steps would be no faster.

    Args:
        global_batch: samples of a window.
        world_size: ranks, W.
        fits: a size that fits.
        too_large: one that does not.
    """
    steps = range(-(-global_batch // (too_large * world_size)), -(-global_batch // (fits * world_size)) + 1)
    sizes = {-(-global_batch // (each * world_size)) for each in steps}
    return sorted(size for size in sizes if fits < size < too_large)


def find_most(global_batch: int, world_size: int, fits: Callable[[int], bool]) -> tuple[int, int | None]:
    """Find the largest micro-batch that fits, by trying: ever twice as much, then between what fits and what does not.

    Args:
        global_batch: samples of the largest window.
        world_size: ranks, W.
        fits: tries a size.

    Returns:
        The largest that fits, 0 if not even one sample does; and the smallest that was tried and does not, if any.
    """
    most = most_micro(global_batch, world_size)
    size, largest = min(_FIRST, most), 0
    while fits(size):
        if size == most:
            return size, None
        size, largest = min(2 * size, most), size
    too_large = size
    between = sizes_between(global_batch, world_size, largest, too_large) if largest else list(range(1, too_large))
    while between:
        middle = len(between) // 2
        if fits(between[middle]):
            largest, between = between[middle], between[middle + 1 :]
        else:
            too_large, between = between[middle], between[:middle]
    return largest, too_large


def unseen_limits(recipe: Recipe, device: str) -> Iterator[str]:
    """The warning where running out of memory is not told.

    Args:
        recipe: the recipe.
        device: where it is trained.
    """
    if recipe.batch.micro == "auto" and device == "cpu":
        yield (
            "batch.micro=auto on a CPU: the system ends a process that takes too much memory, and nothing smaller is "
            "tried then; give a number where memory is short."
        )


def even_micro(global_batch: int, world_size: int, fits: int) -> int:
    """The micro-batch to take where so many samples fit: one that divides the window into equal parts, if one is near.

    Equal parts are equal shapes, for which a compiled model is compiled once. Else it is the least that makes no more
    micro-steps.

    Args:
        global_batch: samples of a window.
        world_size: ranks, W.
        fits: the most that fits.
    """
    most = min(fits, most_micro(global_batch, world_size))
    if global_batch % world_size == 0:
        share = global_batch // world_size
        even = next(size for size in range(min(most, share), 0, -1) if share % size == 0)
        if even >= _NEAR * most:
            return even
    steps = -(-global_batch // (most * world_size))
    return min(most, -(-global_batch // (steps * world_size)))
