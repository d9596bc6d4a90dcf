"""The window: micro-steps whose gradients add up to those of the big batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from launcher.plan.windows import Window
from launcher.recipe.schema import Backward
from launcher.train.editions import EDITIONS
from launcher.train.engines.base import Engine, Forward
from launcher.train.engines.gradients import touch_all
from launcher.train.progress import Progress
from launcher.train.randomness import seed_micro_batch
from launcher.train.task import Loss
from launcher.train.task_losses import TaskLosses
from launcher.train.weighing import WindowLosses


@dataclass(frozen=True)
class MicroBatchData:
    """One micro-batch, ready for the model.

    Attributes:
        data: what the task's `collate` made, on the model's device.
        items: name → how many items the loss of that name is over, in the order of the recipe.
    """

    data: Any
    items: Mapping[str, int]


@dataclass(frozen=True)
class LoadedWindow:
    """A window with one rank's micro-batches.

    Attributes:
        window: the window.
        micro_batches: this rank's; none where the window has fewer micro-batches than ranks.
        totals: items of each loss over all micro-batches of all ranks, N, in the order of the recipe.
    """

    window: Window
    micro_batches: tuple[MicroBatchData, ...]
    totals: tuple[int, ...]

    @property
    def empty(self) -> bool:
        """Whether no loss has an item on any rank, so that there is nothing to step on."""
        return not any(self.totals)


class Accumulation:
    """Takes a rank's share of a window through forward and backward.

    After it, the gradients of every rank are those of the whole window as one batch: for each loss, the sum over all
    items of all ranks of its gradient, divided once by their number, times the recipe's weight.

    Args:
        engine: owns gradient sync.
        losses: the losses of the user's task.
        weights: name → weight of each loss.
        backward: which edition takes several losses backward.
        precision: the context that a forward pass runs in (autocast, or nothing); entered again and again.
        scale: multiplies what is taken backward, for fp16.
        progress: is told how far this rank is; None tells nobody.
        seed: where given, random numbers are drawn anew for each micro-batch, so that dropout does not depend on which
            rank takes it.
        filler: makes a micro-batch of weight zero, for engines whose ranks need equal micro-steps.
    """

    def __init__(
        self,
        engine: Engine,
        losses: TaskLosses,
        weights: Mapping[str, float],
        backward: Backward,
        precision: AbstractContextManager[Any],
        scale: Callable[[Tensor], Tensor],
        progress: Progress | None = None,
        seed: int | None = None,
        filler: Callable[[], MicroBatchData] | None = None,
    ) -> None:
        self._engine = engine
        self._losses = losses
        self._weights = weights
        self._edition = EDITIONS[backward]
        self._precision = precision
        self._scale = scale
        self._progress = progress or Progress()
        self._seed = seed
        self._make_filler = filler
        self._filler: MicroBatchData | None = None

    def accumulate(self, loaded: LoadedWindow) -> Tensor:
        """Run the micro-steps of one window that is not empty; gradients are reduced at the last one.

        A rank that has nothing, or whose losses lack items, still takes part in the reduction.

        Returns:
            This rank's part of the window's losses, float64, [T]; the parts of all ranks add up to their means.
        """
        losses = WindowLosses(self._weights, loaded.totals)
        if self._engine.equal_steps:
            self._take_steps_together(loaded, losses)
        else:
            self._take_own_steps(loaded, losses)
        self._progress.has_computed()
        return losses.sums(self._engine.device)

    def take_alone(self, loaded: LoadedWindow) -> None:
        """One micro-batch of this rank forward and backward, of which nothing is reduced.

        It is the first of those that have items of the most losses; without any, all gradients are zeros.

        Args:
            loaded: the window that it weighs in, which is not empty.
        """
        forward: Forward = touch_all
        micro_batch = max(loaded.micro_batches, key=lambda each: sum(map(bool, each.items.values())), default=None)
        if micro_batch is not None and any(micro_batch.items.values()):
            losses = WindowLosses(self._weights, loaded.totals)
            forward = partial(self._forward, micro_batch=micro_batch, losses=losses, touches=False, last=False)
        self._engine.micro_step(forward, boundary=False)

    def _take_own_steps(self, loaded: LoadedWindow, losses: WindowLosses) -> None:
        last = len(loaded.micro_batches) - 1
        for step, micro_batch in enumerate(loaded.micro_batches):
            boundary = step == last
            self._progress.begins_micro_step(step, len(loaded.micro_batches))
            self._begin(loaded.window, step)
            if any(micro_batch.items.values()):
                touches = boundary and self._touches(micro_batch.items, loaded.totals)
                forward = partial(self._forward, micro_batch=micro_batch, losses=losses, touches=touches, last=boundary)
                self._engine.micro_step(forward, boundary=boundary)
            elif boundary and self._touches(micro_batch.items, loaded.totals):
                self._progress.has_computed()
                self._engine.micro_step(touch_all, boundary=True)
        if not loaded.micro_batches and self._engine.needs_every_gradient:
            self._progress.has_computed()
            self._engine.micro_step(touch_all, boundary=True)

    def _take_steps_together(self, loaded: LoadedWindow, losses: WindowLosses) -> None:
        """As many micro-steps as the busiest rank has, those without items of this rank's with weight zero.

        Ranks that hold parts of the model gather it in every forward pass, and each must be there.
        """
        steps = loaded.window.most_steps
        for step in range(steps):
            boundary = step == steps - 1
            self._progress.begins_micro_step(step, steps)
            own = loaded.micro_batches[step] if step < len(loaded.micro_batches) else None
            if own is not None and any(own.items.values()):
                forward = partial(self._forward, micro_batch=own, losses=losses, touches=False, last=boundary)
            else:
                forward = partial(self._fill, last=boundary)
            self._engine.micro_step(forward, boundary=boundary)

    def _fill(self, model: nn.Module, last: bool) -> Tensor | None:
        if self._filler is None:
            if self._make_filler is None:
                raise RuntimeError("this engine needs equal micro-steps, and nothing to fill them with was given")
            self._filler = self._make_filler()
        total = self._edition(self._losses, model, self._filler.data, _nothing, self._precision)
        if last:
            self._progress.has_computed()
        return total

    def _begin(self, window: Window, step: int) -> None:
        self._engine.begin(window, step)
        if self._seed is not None:
            first = window.micro_batches(self._engine.rank)[step].first
            seed_micro_batch(self._seed, window.update, (first - window.first) // window.micro)

    def _touches(self, items: Mapping[str, int], totals: Sequence[int]) -> bool:
        """Whether parameters lack a gradient at the boundary that they should have.

        A loss without items on any rank has the gradient zero: optimizers treat that otherwise than none.
        """
        return not all(items.values()) and (self._engine.needs_every_gradient or not all(totals))

    def _forward(
        self, model: nn.Module, micro_batch: MicroBatchData, losses: WindowLosses, touches: bool, last: bool
    ) -> Tensor | None:
        items = micro_batch.items

        def weigh(loss: Loss) -> Tensor | None:
            number = items[loss.name]
            if number:
                return self._scale(losses.weigh(loss, number))
            return _nothing(loss) if self._engine.equal_steps else None  # the others are in its backward

        total = self._edition(self._losses, model, micro_batch.data, weigh, self._precision)
        if last:
            self._progress.has_computed()
        if touches:
            nothing = touch_all(model)
            return nothing if total is None else total + nothing
        return total


def _nothing(loss: Loss) -> Tensor:
    """Zero, with the graph of the loss."""
    return loss.value.float() * 0.0
