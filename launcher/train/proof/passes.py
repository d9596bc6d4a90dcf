"""Taking a window through forward and backward as training does, but with switches and without autocast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from launcher.plan.windows import Window
from launcher.recipe.schema import Backward
from launcher.train.accumulation import Accumulation, LoadedWindow, MicroBatchData
from launcher.train.engines.base import Engine, Reductions
from launcher.train.engines.single import SingleEngine
from launcher.train.proof.batchnorm import unsynchronised
from launcher.train.proof.comparison import take_gradient
from launcher.train.proof.precision import default_type
from launcher.train.proof.samples import added_items, ready
from launcher.train.proof.switches import AS_IT_IS, Switches
from launcher.train.randomness import seed_everything
from launcher.train.task import Loss
from launcher.train.task_losses import TaskLosses


@dataclass(frozen=True)
class Alone:
    """What one rank alone made of some batches.

    Attributes:
        gradient: name of a parameter → its gradient, on the CPU.
        losses: each loss, a mean over the items of all batches, in the order of the recipe.
        items: items of each loss in all batches.
    """

    gradient: dict[str, Tensor]
    losses: tuple[float, ...]
    items: tuple[int, ...]


@dataclass(frozen=True)
class Way:
    """Ways of taking batches on one rank that are not the usual one.

    Attributes:
        backward: which edition takes several losses backward.
        seed: another seed than the recipe's.
        in_a_row: whether the batches are micro-batches of one window, with nothing put back between them.
    """

    backward: Backward = "joint"
    seed: int | None = None
    in_a_row: bool = False


USUAL = Way()


class Passes:
    """Forward and backward of a task's losses.

    Args:
        losses: the losses of the task.
        weights: name → weight of each loss.
        seed: the recipe's seed.

    Attributes:
        losses: the same.
        seed: the same.
        dtype: what floating-point tensors of a batch become; None leaves them.
    """

    def __init__(self, losses: TaskLosses, weights: Mapping[str, float], seed: int) -> None:
        self.losses = losses
        self.seed = seed
        self.dtype: torch.dtype | None = None
        self._weights = weights

    def accumulate(
        self, engine: Engine, loaded: LoadedWindow, switches: Switches, backward: Backward, seed: int | None = None
    ) -> tuple[Tensor, Reductions]:
        """Accumulate this rank's share of a window; the model then holds the reduced gradient.

        Args:
            engine: the engine.
            loaded: the window.
            switches: what is switched off.
            backward: which edition takes several losses backward.
            seed: another seed than the recipe's.

        Returns:
            This rank's part of the losses, float64, and its reductions.
        """
        own = self.seed if seed is None else seed
        micro_batches = tuple(ready(batch, engine.device, self.dtype) for batch in loaded.micro_batches)
        with default_type(self.dtype), switches.applied(engine.model):
            seed_everything(own, engine.rank)
            accumulation = Accumulation(
                engine, self.losses, self._weights, backward, switches.forward(self.seed), _unscaled
            )
            sums = accumulation.accumulate(LoadedWindow(loaded.window, micro_batches, loaded.totals))
            return sums, engine.reduce()

    def alone(
        self,
        engine: Engine,
        window: Window,
        batches: Sequence[MicroBatchData],
        switches: Switches = AS_IT_IS,
        way: Way = USUAL,
    ) -> Alone:
        """Take batches through forward and backward on this rank alone; their gradients are added in float64.

        Args:
            engine: knows the model and its device; it is not used.
            window: the window that the batches are of.
            batches: the batches, on any device.
            switches: what is switched off.
            way: what else may be done otherwise.
        """
        single = SingleEngine(engine.model, engine.device)
        totals = added_items(batches, self.losses)
        losses = torch.zeros(len(totals), dtype=torch.float64)
        gradient: dict[str, Tensor] = {}
        runs = [tuple(batches)] if way.in_a_row else [(batch,) for batch in batches]
        with unsynchronised(engine.model):
            for run in runs:
                sums, _ = self.accumulate(single, LoadedWindow(window, run, totals), switches, way.backward, way.seed)
                losses += sums.cpu()
                _add(gradient, take_gradient(engine.model), only=len(runs) == 1)
        return Alone(gradient, tuple(losses.tolist()), totals)

    def forward(self, engine: Engine, batch: MicroBatchData, switches: Switches = AS_IT_IS) -> list[Loss]:
        """The losses of a batch on this rank alone, without a backward."""
        moved = ready(batch, engine.device, self.dtype)
        with unsynchronised(engine.model), default_type(self.dtype), switches.applied(engine.model):
            seed_everything(self.seed, rank=None)
            with switches.forward(self.seed):
                return [
                    Loss(loss.value.detach(), loss.reduction, loss.name)
                    for loss in self.losses.all(engine.model, moved.data)
                ]


def _add(gradient: dict[str, Tensor], more: Mapping[str, Tensor], *, only: bool) -> None:
    for name, part in more.items():
        wide = part if only else part.to(torch.promote_types(part.dtype, torch.float64))
        gradient[name] = gradient[name].add_(wide) if name in gradient else wide


def _unscaled(loss: Tensor) -> Tensor:
    return loss
