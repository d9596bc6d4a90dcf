"""The bench of a proof: the first window of a run, taken through forward and backward in two ways."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from launcher.plan.planner import Plan
from launcher.plan.windows import MicroBatch, Window
from launcher.rundir.proof import AllReduces, LossValues, Precision, Shape
from launcher.train.accumulation import LoadedWindow, MicroBatchData
from launcher.train.engines.base import Engine, Reductions
from launcher.train.job import Materials, build_engine
from launcher.train.proof.comparison import TOLERANCES, Comparison, Gradient, compare, difference, finite, take_gradient
from launcher.train.proof.memory import Fit, is_out_of_memory
from launcher.train.proof.passes import USUAL, Alone, Passes, Way
from launcher.train.proof.precision import set_types, types_of
from launcher.train.proof.ranks import Ranks
from launcher.train.proof.samples import WindowSamples
from launcher.train.proof.switches import ALL_OFF, AS_IT_IS, Switches
from launcher.train.task_losses import TaskLosses, loss_weights


@dataclass(frozen=True)
class Measured:
    """The window accumulated over the ranks, beside the same samples as one batch; the same on all ranks.

    Attributes:
        comparison: the accumulated gradient beside the other.
        losses: the losses both ways.
        all_reduces: what crossed the network.
        shape: how the window was taken.
    """

    comparison: Comparison
    losses: tuple[LossValues, ...]
    all_reduces: AllReduces
    shape: Shape


@dataclass(frozen=True)
class _Accumulated:
    gradient: Gradient  # on rank 0 only
    losses: list[float]
    reductions: Reductions


class Bench:
    """A window with the user's model and losses, on this rank. All ranks do the same in the same order.

    Args:
        plan: the plan, with the facts of the materials.
        materials: the user's objects.
        device: where the model goes.
        ranks: the ranks.
        say: tells what is being done.

    Attributes:
        plan: the same.
        ranks: the same.
        say: the same.
        passes: takes batches through forward and backward.
        samples: makes batches of the window's samples.
        engine: holds the ranks together.
        loaded: the window, with this rank's micro-batches.
        precision: the number format that the model is in.
    """

    def __init__(
        self, plan: Plan, materials: Materials, device: torch.device, ranks: Ranks, say: Callable[[str], None]
    ) -> None:
        recipe = plan.recipe
        self.plan = plan
        self.ranks = ranks
        self.say = say
        losses = TaskLosses(materials.task, recipe.multitask)
        self.passes = Passes(losses, loss_weights(recipe.multitask), recipe.train.seed)
        self.samples = WindowSamples(plan, materials.task, materials.train_data, losses)
        self.engine: Engine = build_engine(recipe, materials.model, plan.topology.world_size, device)
        self.loaded: LoadedWindow = self.samples.load(self.engine)
        self.precision: Precision = "float32"
        self._fit = Fit(self.loaded.window.samples, device)

    @property
    def tolerance(self) -> float:
        """The largest error that is called equivalent in the precision at hand."""
        return TOLERANCES[self.precision]

    def measure(self, switches: Switches = AS_IT_IS) -> Measured:
        """Accumulate the window over the ranks, and take it as one batch on rank 0.

        Raises:
            RuntimeError: the ranks did not reduce all of the gradient.
        """
        self.say(f"accumulating the window on the ranks, in {self.precision}{_words(switches)}")
        accumulated = self._accumulate(switches)
        self.say(f"taking it as one batch, in {self.precision}{_words(switches)}")
        return self.ranks.of_first(lambda: self._beside_one_batch(accumulated, switches))

    def batch(self, positions: Sequence[int]) -> MicroBatchData:
        """The samples at some positions of the window's epoch as one batch."""
        return self.samples.batch(self.loaded.window, positions)

    def alone(self, batches: Sequence[MicroBatchData], switches: Switches = AS_IT_IS, way: Way = USUAL) -> Alone:
        """What this rank alone makes of batches."""
        return self.passes.alone(self.engine, self.loaded.window, batches, switches, way)

    def rounding(self) -> float:
        """How much the gradient of one batch changes when its samples come in another order, which is rounding."""
        self.say("taking one batch in another order")

        def apart() -> float:
            parts = [positions(part) for part in slices(self.loaded.window, self._fit.samples)]
            one = self.alone([self.batch(part) for part in parts], ALL_OFF)
            other = self.alone([self.batch(part[::-1]) for part in parts], ALL_OFF)
            return difference(other.gradient, one.gradient)

        return self.ranks.of_first(apart)

    def use_double(self) -> str:
        """Go on in float64, if the model runs in it on every rank.

        Returns:
            Why it does not; empty if it does.
        """
        self.say("trying the model in float64")
        model, types = self.engine.model, types_of(self.engine.model)
        self._rebuild(model.double)
        self.passes.dtype = torch.float64
        reason = next((why for why in self.ranks.gather(self._fails()) if why), "")
        if reason:
            self.passes.dtype = None
            self._rebuild(lambda: set_types(model, types))
        else:
            self.precision = "float64"
        return reason

    def _rebuild(self, change: Callable[[], object]) -> None:
        """Change the types of the model's parameters, which an engine has made its buckets for."""
        model, device, recipe = self.engine.model, self.engine.device, self.plan.recipe
        del self.engine
        gc.collect()  # the engine before must be gone: its hooks are on the parameters
        change()
        self.engine = build_engine(recipe, model, self.ranks.world_size, device)

    def _fails(self) -> str:
        """Why this rank cannot take its first micro-batch; empty if it can."""
        batches = self.loaded.micro_batches[:1]
        try:
            self.alone([batch for batch in batches if any(batch.items.values())])
        except Exception as error:
            take_gradient(self.engine.model)
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return ""

    def _accumulate(self, switches: Switches) -> _Accumulated:
        backward = self.plan.recipe.multitask.backward
        sums, reductions = self.passes.accumulate(self.engine, self.loaded, switches, backward)
        losses = self.engine.reduce_over_ranks(sums).read()
        self._fit.learn(max((part.samples for part in self.loaded.window.micro_batches(0)), default=1))
        if self.ranks.rank == 0:
            return _Accumulated(take_gradient(self.engine.model), losses, reductions)
        self.engine.model.zero_grad(set_to_none=True)
        return _Accumulated({}, losses, reductions)

    def _beside_one_batch(self, accumulated: _Accumulated, switches: Switches) -> Measured:
        window, names = self.loaded.window, self.passes.losses.names
        parts, alone = self._largest_slices(switches)
        values = zip(names, accumulated.losses, alone.losses, alone.items, strict=True)
        reduction = self.plan.reduction
        return Measured(
            comparison=compare(accumulated.gradient, alone.gradient, self.precision),
            losses=tuple(
                LossValues(name=name, accumulated=finite(found), one_batch=finite(true))
                if items
                else LossValues(name=name, accumulated=None, one_batch=None)
                for name, found, true, items in values
            ),
            all_reduces=AllReduces(
                calls=accumulated.reductions.calls,
                bytes=accumulated.reductions.bytes,
                planned_bytes=reduction.bytes_per_update if reduction else 0,
                bytes_without_no_sync=reduction.bytes_without_no_sync if reduction else 0,
            ),
            shape=Shape(
                samples=window.samples,
                world_size=window.world_size,
                micro_steps=tuple(len(window.micro_batches(rank)) for rank in range(window.world_size)),
                slices=len(parts),
                slice_samples=max(part.samples for part in parts),
                items=dict(zip(names, alone.items, strict=True)),
            ),
        )

    def _largest_slices(self, switches: Switches) -> tuple[list[MicroBatch], Alone]:
        """The window as one batch, or in the largest slices that fit.

        Its random numbers are not those of the ranks: drawn in turn for micro-batches or at once for the whole, they
        could be the same, and dropout would go unseen.
        """
        way = Way(seed=self.passes.seed + 1)
        while True:
            parts = slices(self.loaded.window, self._fit.samples)
            try:
                return parts, self.alone([self.batch(positions(part)) for part in parts], switches, way)
            except Exception as error:
                if self._fit.samples == 1 or not is_out_of_memory(error):
                    raise
            take_gradient(self.engine.model)  # behind the except, which keeps alive what the failed pass held
            torch.cuda.empty_cache()
            self._fit.halve()
            self.say(f"it does not fit: trying {self._fit.samples} samples at once")


def slices(window: Window, most: int) -> list[MicroBatch]:
    """A window in as few even parts as may be.

    If they are the window's own micro-batches, one more is made of it: in the same parts a mean of means is no other.

    Args:
        window: the window.
        most: samples of a part at most.
    """
    count = -(-window.samples // most)
    parts = _even(window, count)
    if count > 1 and parts == micro_batches(window):
        return _even(window, min(count + 1, window.samples))
    return parts


def positions(part: MicroBatch) -> range:
    """The positions of a part of a window in its epoch."""
    return range(part.first, part.first + part.samples)


def micro_batches(window: Window) -> list[MicroBatch]:
    """The micro-batches of all ranks, in order."""
    return [part for rank in range(window.world_size) for part in window.micro_batches(rank)]


def _even(window: Window, count: int) -> list[MicroBatch]:
    ends = [window.first + window.samples * index // count for index in range(count + 1)]
    return [MicroBatch(low, high - low) for low, high in pairwise(ends)]


def _words(switches: Switches) -> str:
    off = [
        *([] if switches.batch_statistics else ["batch statistics"]),
        *([] if switches.chance else ["random numbers"]),
    ]
    return f", without {' and '.join(off)}" if off else ""
