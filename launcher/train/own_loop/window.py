"""A window that the user's own loop goes through."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor

from launcher.train.accumulation import MicroBatchData
from launcher.train.engines.gradients import touch_all
from launcher.train.items import listed
from launcher.train.own_loop.counting import CountedWindow
from launcher.train.own_loop.sync import GradientSync
from launcher.train.task import Loss
from launcher.train.weighing import WindowLosses


class OpenWindow:
    """A window of `Accumulator.windows`: this rank's micro-batches, to be gone through once.

    Batches without any item are left out, so that a rank may have fewer than `micro_steps`, or none.

    Args:
        counted: its micro-batches, and its items over all ranks.
        weights: name → weight of each loss.
        sync: decides when gradients are reduced.
        scale: multiplies what is taken backward, for fp16.

    Attributes:
        totals: name → items over all ranks, N.
        gone_through: whether all micro-batches were taken, and the gradients are those of the whole window.
        stepped: whether the Accumulator stepped on it.
    """

    def __init__(
        self,
        counted: CountedWindow,
        weights: Mapping[str, float],
        sync: GradientSync,
        scale: Callable[[Tensor], Tensor],
    ) -> None:
        self.totals = counted.totals
        self.gone_through = False
        self.stepped = False
        self._losses = WindowLosses(weights, list(counted.totals.values()))
        self._sync = sync
        self._scale = scale
        self._left = deque(counted.micro_batches)
        self._micro_steps = len(counted.micro_batches)
        self._current: MicroBatchData | None = None
        self._missing: list[str] = []  # losses of the current micro-batch that were not taken backward yet
        self._steps: weakref.ref[Generator[Any, None, None]] | None = None

    @property
    def empty(self) -> bool:
        """Whether no loss has an item on any rank, so that there is nothing to step on."""
        return not any(self.totals.values())

    def __len__(self) -> int:
        """Micro-steps of this rank."""
        return self._micro_steps

    def __iter__(self) -> Generator[Any, None, None]:
        """The batches. Between one and the next, the loop takes its loss forward and `backward`.

        Raises:
            RuntimeError: it is gone through again, or a batch was not taken backward.
        """
        if self._steps is not None:
            raise RuntimeError("a window can be gone through once: its gradients would count twice")
        steps = self._run()
        self._steps = weakref.ref(steps)  # the loop alone holds it, so that a break ends it
        return steps

    def _run(self) -> Generator[Any, None, None]:
        while self._left:
            micro_batch = self._left.popleft()
            with self._sync.micro_step(boundary=not self._left), self._at_hand(micro_batch):
                yield micro_batch.data
        if not self.empty:
            self._end()
        self.gone_through = True

    @contextmanager
    def _at_hand(self, micro_batch: MicroBatchData) -> Iterator[None]:
        self._current, self._missing = micro_batch, list(self.totals)
        try:
            yield
        finally:
            self._current = None
        if unused := [name for name in self._missing if micro_batch.items[name]]:
            raise RuntimeError(f"a batch went by without window.backward of {listed(unused)}: all its items count")

    def _end(self) -> None:
        if not self._micro_steps:
            self._sync.without_data()
        if not all(self.totals.values()):
            # The gradient of a loss without items is zero, which optimizers treat otherwise than none.
            touch_all(self._sync.module).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._sync.reduce()

    def backward(
        self,
        loss: Tensor,
        *,
        name: str | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        retain_graph: bool = False,
    ) -> None:
        """Take a loss of the batch at hand backward, weighed by its share of the window: never divide it yourself.

        Args:
            loss: scalar tensor, with its graph.
            name: which loss it is, where the Accumulator has several.
            reduction: whether it is the mean over the batch's items, or their sum.
            retain_graph: whether another loss goes backward through the same graph.

        Raises:
            RuntimeError: outside of the window's loop; or the batch was taken backward already.
            ValueError: the loss is not a scalar, or not one of those that the Accumulator knows.
        """
        if self._current is None:
            raise RuntimeError("window.backward belongs inside of `for batch in window`")
        if loss.ndim:
            raise ValueError(f"a loss must be a scalar, not a tensor of shape {list(loss.shape)}: take its mean")
        name = self._cross_off(name)
        number = self._current.items[name]
        if number:
            part = self._scale(self._losses.weigh(Loss(loss, reduction, name), number))
            self._sync.backward(part, retain_graph=retain_graph)

    def _cross_off(self, name: str | None) -> str:
        several = len(self.totals) > 1
        if name is None and several:
            raise ValueError(f"which loss is it? window.backward(loss, name=...) with one of {listed(self.totals)}")
        found = next(iter(self.totals)) if name is None else name
        if found not in self.totals:
            raise ValueError(f"there is no loss of the name {found!r}: the Accumulator has {listed(self.totals)}")
        if found not in self._missing:
            raise RuntimeError(
                f"window.backward was called twice for the loss {found!r} of one batch: add the two"
                if several
                else "window.backward was called twice for one batch: add the losses, or name them, "
                'Accumulator(..., losses={"a": 1.0, "b": 0.5}) and window.backward(loss, name="a")'
            )
        self._missing.remove(found)
        return found

    def mean_losses(self) -> dict[str, float]:
        """Name → mean of the loss over the window's items of all ranks, 0 where there are none.

        Every rank must call it, after the window was gone through: it adds up the parts of all ranks.
        """
        sums = self._sync.sum_over_ranks(self._losses.sums(self._sync.device)).read()
        return dict(zip(self.totals, sums, strict=True))

    def close(self) -> None:
        """Leave the window, wherever the loop is in it; gradients are no more held back."""
        steps = self._steps() if self._steps is not None else None
        if steps is not None:
            steps.close()
        self._left.clear()
