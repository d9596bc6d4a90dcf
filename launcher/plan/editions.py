"""What the editions of the backward cost for the losses of a recipe: graphs in memory, and passes through the trunk."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from launcher.recipe.schema import Backward, MultitaskSection

Layout: TypeAlias = Literal["own forwards", "trunk"]
"""A forward pass for each loss, as `Task.loss` writes it, or one for all of them: `Task.trunk` and `Task.heads`."""

Reduction: TypeAlias = Literal["overlapped", "after", "none"]


@dataclass(frozen=True)
class EditionRow:
    """One edition with one layout.

    Attributes:
        backward: the edition.
        layout: how the losses are computed.
        chosen: whether the recipe chooses it.
        trunk_graphs: graphs of the trunk that are alive at once; with forward passes of their own, of whole losses.
        head_graphs: graphs of heads that are alive at once.
        trunk_forwards: forward passes through the trunk in a micro-step.
        trunk_backwards: backward passes through it.
        reduction: when gradients are reduced: while the last backward runs, after it, or never on one rank.
    """

    backward: Backward
    layout: Layout
    chosen: bool
    trunk_graphs: int
    head_graphs: int
    trunk_forwards: int
    trunk_backwards: int
    reduction: Reduction


def compare_editions(
    section: MultitaskSection, world_size: int, written: Collection[str] | None, can_overlap: bool = True
) -> tuple[EditionRow, ...]:
    """The editions that several losses can go backward in; none for one loss.

    Args:
        section: the recipe's `multitask` section.
        world_size: ranks, W.
        written: which of `loss`, `trunk` and `heads` the task writes. None if that is not known: an edition then has
            a row for each layout.
        can_overlap: whether one backward of a micro-step could overlap with the reduction.
    """
    if not section.losses:
        return ()
    return tuple(
        _row(section, backward, layout, _reduction(backward, world_size, can_overlap))
        for backward in get_args(Backward)
        for layout in _layouts(backward, written)
    )


def _layouts(backward: Backward, written: Collection[str] | None) -> Iterator[Layout]:
    """The layouts that an edition takes. With both written, `sequential` has forward passes of each loss's own."""
    has_loss = written is None or "loss" in written
    has_heads = written is None or {"trunk", "heads"} <= set(written)
    either = written is None
    if backward != "shared" and has_loss and (either or backward == "sequential" or not has_heads):
        yield "own forwards"
    if has_heads and (either or backward != "sequential" or not has_loss):
        yield "trunk"


def _reduction(backward: Backward, world_size: int, can_overlap: bool) -> Reduction:
    if world_size == 1:
        return "none"
    return "overlapped" if backward == "joint" and can_overlap else "after"


def _row(section: MultitaskSection, backward: Backward, layout: Layout, reduction: Reduction) -> EditionRow:
    losses = len(section.losses)
    alive = losses if backward == "joint" else 1
    own = layout == "own forwards"
    return EditionRow(
        backward=backward,
        layout=layout,
        chosen=backward == section.backward,
        trunk_graphs=alive if own else 1,
        head_graphs=alive,
        trunk_forwards=losses if own else 1,
        trunk_backwards=losses if own or backward == "sequential" else 1,
        reduction=reduction,
    )
