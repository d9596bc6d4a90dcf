"""Gradient buckets that are handed on while a backward fills them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


class FillingBuckets:
    """Hands buckets on as soon as a backward has filled them, always in their order, which is the same on all ranks.

    Ranks may get the gradients of a bucket in another order, or not at all: what a backward has left is handed on by
    `rest`, and so are all buckets behind the first that it did not fill, since they wait for their turn.

    Args:
        buckets: the parameters of each, in the order in which a backward reaches them, about.
        hand_on: takes the index of a bucket whose gradients are there, on every rank in the same order.
    """

    def __init__(self, buckets: Sequence[Sequence[nn.Parameter]], hand_on: Callable[[int], None]) -> None:
        self._buckets = buckets
        self._hand_on = hand_on
        self._place: dict[Tensor, int] = {
            parameter: index for index, bucket in enumerate(buckets) for parameter in bucket
        }
        self._next = 0
        self._filled: list[set[Tensor]] = [set() for _ in buckets]
        self._late: set[int] = set()

    @contextmanager
    def during_backward(self) -> Iterator[None]:
        """While the one backward runs after which the rank's gradients are whole."""
        hooks = [
            parameter.register_post_accumulate_grad_hook(self._has_gradient)  # type: ignore[no-untyped-call]  # torch's
            for parameter in self._place
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def rest(self) -> list[bool]:
        """Hand on what is left, and begin anew.

        Returns:
            Of each bucket, whether a gradient in it changed after it was handed on. A parameter gets its gradient once
            in a backward; but where a backward runs others in itself (reentrant checkpoints), again in each of them.
        """
        while self._next < len(self._buckets):
            self._hand_on_next()
        late = [index in self._late for index in range(len(self._buckets))]
        self._next, self._late = 0, set()
        self._filled = [set() for _ in self._buckets]
        return late

    def _has_gradient(self, parameter: Tensor) -> None:
        index = self._place[parameter]
        if index < self._next:
            self._late.add(index)
            return
        self._filled[index].add(parameter)
        while self._next < len(self._buckets) and len(self._filled[self._next]) == len(self._buckets[self._next]):
            self._hand_on_next()

    def _hand_on_next(self) -> None:
        index = self._next
        self._next += 1
        self._hand_on(index)
