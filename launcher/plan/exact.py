"""Exact runs, whose bits do not depend on the number of ranks: which worlds they allow, and what they add in a tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from launcher.errors import Mistake, RequestError
from launcher.plan.windows import virtual_ranks_of
from launcher.recipe.schema import Recipe

T = TypeVar("T")


def refuse_too_many_ranks(virtual_ranks: int | None, world_size: int) -> None:
    """Refuse more ranks than there are virtual ones to own.

    Args:
        virtual_ranks: those of an exact run, V; None for any other.
        world_size: ranks, W.

    Raises:
        RequestError: there are more, with the worlds that are allowed.
    """
    if virtual_ranks is not None and world_size > virtual_ranks:
        raise RequestError(
            [
                Mistake(
                    "train.virtual_ranks",
                    f"an exact run with {virtual_ranks} virtual ranks goes on 1 to {virtual_ranks} ranks, not on "
                    f"{world_size}",
                    f"Use no more ranks, or begin a new run with train.virtual_ranks={world_size}",
                )
            ]
        )


@dataclass(frozen=True)
class Node:
    """A node of the balanced binary tree over the virtual ranks: the leaves from `index * 2**level`, 2**level of them.

    Attributes:
        level: 0 for a leaf.
        index: its place in its level, from the left.
    """

    level: int
    index: int


class TreeSum(Generic[T]):
    """Adds what stands at the leaves of a tree, as soon as two siblings are there: a binary counter.

    Floating-point addition depends on its order. This one follows from the number of leaves alone, so that partial sums
    that several ranks make, and one makes whole, have the same bits as a sum made by one rank.

    Args:
        leaves: how many there are, V.
        add: adds the right value to the left one, and may change both.
    """

    def __init__(self, leaves: int, add: Callable[[T, T], T]) -> None:
        self._leaves = leaves
        self._add = add
        self._open: list[tuple[Node, T]] = []

    def put(self, node: Node, value: T) -> None:
        """Give the sum of a node; the nodes come from the left to the right."""
        self._open.append((node, value))
        while self._rise():
            pass

    @property
    def held(self) -> int:
        """How many sums have no sibling yet."""
        return len(self._open)

    def take(self) -> list[tuple[Node, T]]:
        """The sums that have no sibling yet, from the left to the right, which are then forgotten.

        There is one, the root, when all leaves were given.
        """
        taken, self._open = self._open, []
        return taken

    def _rise(self) -> bool:
        """Whether the last sum took its parent's place: with its left sibling, or alone where it can have no right."""
        node, value = self._open[-1]
        parent = Node(node.level + 1, node.index // 2)
        if node.index % 2 == 0:
            alone = (node.index + 1) << node.level >= self._leaves and node.index > 0
            if alone:
                self._open[-1] = (parent, value)
            return alone
        if len(self._open) < 2 or self._open[-2][0] != Node(node.level, node.index - 1):
            return False
        del self._open[-1]
        left = self._open.pop()[1]
        self._open.append((parent, self._add(left, value)))
        return True


def partial_sums(rank: int, world_size: int, virtual_ranks: int) -> list[Node]:
    """The nodes of the tree whose sums a rank can make of its own virtual ranks; one where they are aligned."""
    tree: TreeSum[None] = TreeSum(virtual_ranks, lambda left, right: None)
    for virtual in virtual_ranks_of(rank, world_size, virtual_ranks):
        tree.put(Node(0, virtual), None)
    return [node for node, _ in tree.take()]


def copies_per_update(world_size: int, virtual_ranks: int) -> float:
    """What an exact reduction moves for the busiest rank, in copies of the gradients that a ring all-reduce is handed.

    Partial sums go all to all, and each rank's part of the whole sum to all: with one partial sum of each rank, that is
    what the ring moves.

    Args:
        world_size: ranks, W.
        virtual_ranks: virtual ranks, V.
    """
    most = max(len(partial_sums(rank, world_size, virtual_ranks)) for rank in range(world_size))
    return (most + 1) / 2


def gradient_copies(world_size: int, virtual_ranks: int) -> int:
    """Copies of the gradients that the busiest rank of an exact run holds at once; plain training holds one.

    They are the partial sums of its virtual ranks and the gradient that the next one adds to, or the partial sums of
    all and the whole sum. Besides there are the few buckets that are under way.

    Args:
        world_size: ranks, W.
        virtual_ranks: virtual ranks, V.
    """
    return max(_copies_of_rank(rank, world_size, virtual_ranks) for rank in range(world_size))


def _copies_of_rank(rank: int, world_size: int, virtual_ranks: int) -> int:
    tree: TreeSum[None] = TreeSum(virtual_ranks, lambda left, right: None)
    most = 0
    for virtual in virtual_ranks_of(rank, world_size, virtual_ranks):
        most = max(most, tree.held + 1)
        tree.put(Node(0, virtual), None)
    return max(most, tree.held + 1) if world_size > 1 else most


@dataclass(frozen=True)
class ExactCost:
    """What an exact run costs beside the same training without `exact`.

    Attributes:
        virtual_ranks: virtual ranks, V.
        copies_per_update: bytes that cross the network, in those of a ring all-reduce.
        gradient_copies: copies of the gradients in the memory of the busiest rank, where there would be one.
        can_overlap: whether the number of ranks allows that gradients are reduced while the last backward goes on.
        overlapped: whether they are: there must be one backward in a micro-step, too.
        bytes_per_update: what a ring all-reduce would be handed to move as much; None while the model is not known.
        ring_bytes_per_update: what it is handed without `exact`.
        extra_memory_bytes: of the copies beyond the one; buckets under way come on top.
    """

    virtual_ranks: int
    copies_per_update: float
    gradient_copies: int
    can_overlap: bool
    overlapped: bool
    bytes_per_update: int | None
    ring_bytes_per_update: int | None
    extra_memory_bytes: int | None


def exact_cost(recipe: Recipe, world_size: int, gradient_bytes: int | None) -> ExactCost | None:
    """What `exact` costs a run; None where the recipe does not ask for it.

    Args:
        recipe: the recipe.
        world_size: ranks, W.
        gradient_bytes: one copy of the gradients, if the model is known.
    """
    virtual_ranks = recipe.train.exact_ranks
    if virtual_ranks is None:
        return None
    moved, held = copies_per_update(world_size, virtual_ranks), gradient_copies(world_size, virtual_ranks)
    ring = gradient_bytes if world_size > 1 else 0
    return ExactCost(
        virtual_ranks=virtual_ranks,
        copies_per_update=moved,
        gradient_copies=held,
        can_overlap=overlaps(world_size, virtual_ranks),
        overlapped=overlaps(world_size, virtual_ranks) and recipe.multitask.backward == "joint",
        bytes_per_update=None if ring is None else int(ring * moved),
        ring_bytes_per_update=ring,
        extra_memory_bytes=None if gradient_bytes is None else gradient_bytes * (held - 1),
    )


def overlaps(world_size: int, virtual_ranks: int) -> bool:
    """Whether an exact run can reduce gradients while the last backward goes on.

    A rank that stands for several virtual ones can not: their sum is whole only when the last one's gradients are.

    Args:
        world_size: ranks, W.
        virtual_ranks: virtual ranks, V.
    """
    return 1 < world_size == virtual_ranks
