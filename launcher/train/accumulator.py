"""Exact gradient accumulation for a training loop of the user's own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from launcher.plan.planner import Plan, with_facts
from launcher.train.engines.gradients import clip_to_norm, trained
from launcher.train.gradient_step import step_on_gradient
from launcher.train.own_loop.counting import CountItems, Portion, WindowCounter
from launcher.train.own_loop.model import check_optimizer, gradient_sync
from launcher.train.own_loop.planned import PlannedBatches, even_portions, plan_of_launch, set_planned_rate
from launcher.train.own_loop.unwrap import Scheduler, unwrap_optimizer, unwrap_scheduler
from launcher.train.own_loop.window import OpenWindow
from launcher.train.task_losses import ONLY


@dataclass(frozen=True)
class Update:
    """What `Accumulator.step` did.

    Attributes:
        applied: whether the optimizer stepped; it does not where no rank had items, or fp16 made a gradient overflow.
        grad_norm: the gradient's norm before clipping, a scalar on its device; None where `max_grad_norm` is None.
    """

    applied: bool
    grad_norm: Tensor | None = None


class Accumulator:
    """Gradient accumulation in a loop of your own, in one process or over DistributedDataParallel.

    The loop as people write it            and the same with an Accumulator

                                           accumulator = Accumulator(
                                               model, optimizer, micro_steps=4, scheduler=scheduler)
    optimizer.zero_grad()
    for i, (x, y) in enumerate(loader):    for window in accumulator.windows(loader):
                                               for x, y in window:
        loss = loss_fn(model(x), y)                loss = loss_fn(model(x), y)
        (loss / 4).backward()                      window.backward(loss)
        if (i + 1) % 4 == 0:                   accumulator.step()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    What changes: the gradient is that of the window as one batch, however samples and tokens fall on micro-batches and
    ranks, in the short window at the end of the loader too; gradients cross the network once per update, forward and
    backward of all micro-steps but the last being inside `no_sync`; the scheduler counts updates; the gradient is
    clipped once, when it is whole. Ranks may have loaders of different lengths: the loops end together, when all have
    ended; only a layer that waits for the other ranks in its forward pass (SyncBatchNorm) needs loaders of one length.
    With accelerate: give what `accelerator.prepare` returned, and call `window.backward` in place of
    `accelerator.backward` and `accelerator.accumulate`, which divide by its own accumulation steps.

    The next window is loaded and counted while one is computed, so that two of them are in memory. A loss is never
    divided by the number of micro-steps: `window.backward` takes the mean over the batch's items, and weighs it.

    Args:
        model: the model on its device: a `DistributedDataParallel` where there are several processes. Its reduction
            averages over the ranks, which is made up for; a communication hook of your own is refused.
        optimizer: the optimizer of its parameters.
        micro_steps: batches of a rank per update.
        scheduler: stepped once for every update that was applied.
        max_grad_norm: clip the gradient to this norm; None does not clip.
        losses: name → weight of each loss, where a micro-step has several backwards. Gradients are then reduced after
            the last one, and not during it: where the sum of the losses fits into memory, one backward of that is
            faster.
        scaler: scales losses in fp16; found by itself in what accelerate prepared.

    Attributes:
        scheduler: the scheduler that is stepped.
        plan: the plan of the launch; None without `from_env`.

    Raises:
        ValueError: a number or a setting that cannot be.
        TypeError: a model that is sharded, or is not wrapped though there are several processes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        micro_steps: int,
        scheduler: Scheduler | None = None,
        max_grad_norm: float | None = None,
        losses: Mapping[str, float] | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        if micro_steps < 1:
            raise ValueError(f"micro_steps is {micro_steps}: an update takes one batch of each rank at least")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm is {max_grad_norm}: give a norm above 0, or None not to clip")
        self.scheduler = unwrap_scheduler(scheduler)
        self.plan: Plan | None = None
        self._micro_steps = micro_steps
        self._weights = dict(losses) if losses else {ONLY: 1.0}
        self._max_norm = max_grad_norm
        self._sync = gradient_sync(model, several_losses=len(self._weights) > 1)
        self._optimizer, found = unwrap_optimizer(optimizer)
        check_optimizer(self._optimizer, self._sync)
        device = self._sync.device
        self._scaler = scaler or found or torch.amp.GradScaler(device.type, enabled=False)
        self._scaler.scale(torch.zeros((), device=device))  # sets its scale up, also on a rank that never has a loss
        self._window: OpenWindow | None = None
        self._sampler: PlannedBatches | None = None

    @classmethod
    def from_env(
        cls,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        samples: int | None = None,
        scheduler: Scheduler | None = None,
        max_grad_norm: float | None = None,
        losses: Mapping[str, float] | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Accumulator:
        """The Accumulator of a script that a recipe launched, which takes its batch from the recipe's plan.

        The learning rate becomes the plan's too, unless there is a scheduler, which took its own from the optimizer as
        it was made: give that optimizer the rate in LAUNCHER_LEARNING_RATE, and the schedule the LAUNCHER_UPDATES.

        Args:
            model: as above.
            optimizer: as above.
            samples: length of the training data; may be left out where the recipe has `data.samples`.
            scheduler: as above.
            max_grad_norm: as above.
            losses: as above.
            scaler: as above.

        Raises:
            RuntimeError: this process was not launched from a recipe, or for another number of ranks.
            RequestError: the recipe says another number of samples or parameters.
        """
        plan = plan_of_launch(os.environ)
        accumulator = cls(model, optimizer, plan.batch.accumulation, scheduler, max_grad_norm, losses, scaler)
        accumulator._follow(plan, samples)
        return accumulator

    def _follow(self, plan: Plan, samples: int | None) -> None:
        if plan.topology.world_size != self._sync.world_size:
            raise RuntimeError(
                f"the plan is for {plan.topology.world_size} ranks, but the model is shared by "
                f"{self._sync.world_size}: make it a DistributedDataParallel over all of them"
            )
        if samples is not None:
            parameters = sum(parameter.numel() for parameter in trained(self._sync.module))
            plan = with_facts(plan, samples=samples, parameters=parameters)
        self.plan = plan
        if self.scheduler is None:
            set_planned_rate(self._optimizer, plan.learning_rate)

    def sampler(self) -> PlannedBatches:
        """This rank's micro-batches of the whole run, for `DataLoader(dataset, batch_sampler=accumulator.sampler())`.

        Windows are then those of the plan, sample by sample, whatever the number of ranks: epoch after epoch, the last
        window of an epoch as short as it is. Give the loader to `windows` as it is: it is this rank's already.

        Raises:
            RuntimeError: there is no plan, or it does not know the length of the data.
        """
        if self.plan is None:
            raise RuntimeError("accumulator.sampler() follows a plan: make the Accumulator with Accumulator.from_env")
        if self.plan.length.data_samples is None:
            raise RuntimeError(
                "the plan does not know the length of the data: Accumulator.from_env(..., samples=len(dataset))"
            )
        self._sampler = PlannedBatches(self.plan, self._sync.rank)
        return self._sampler

    def windows(self, loader: Iterable[Any], items: CountItems | None = None) -> Iterator[OpenWindow]:
        """The windows of a loader, until it has ended on all ranks. Step after each.

        Args:
            loader: this rank's batches.
            items: how many items the loss is a mean over in a batch, such as tokens that are not ignored; by name
                where there are several losses. The default counts samples, by the batch's first tensor.

        Raises:
            RuntimeError: a window was left without `step`.
        """
        counter = WindowCounter(tuple(self._weights), items, self._sync)
        if self._window is not None:
            self._window.close()  # of a loop that an exception ended
        for counted in counter.windows(loader, self._portions()):
            self._optimizer.zero_grad(set_to_none=True)
            window = self._window = OpenWindow(counted, self._weights, self._sync, self._scaler.scale)
            try:
                yield window
            finally:
                window.close()
            if not window.stepped:
                raise RuntimeError(
                    "a window went by without accumulator.step(): call it once after each `for batch in window`"
                )

    def _portions(self) -> Iterable[Portion]:
        if self._sampler is not None:
            return self._sampler.portions()
        return repeat(Portion(self._micro_steps)) if self.plan is None else even_portions(self.plan)

    def step(self) -> Update:
        """Unscale, clip, step, advance the schedule and clear the gradients: in this order, once per window.

        A window without items on any rank is passed over, and holds the schedule; so does a step that fp16 spoiled.

        Raises:
            RuntimeError: there is no window to step on, or not all of it was gone through.
        """
        window = self._window
        if window is None or window.stepped:
            raise RuntimeError("accumulator.step() belongs after each window of accumulator.windows, once")
        if not window.gone_through:
            raise RuntimeError(
                "accumulator.step() before the window's end: go through all of `for batch in window` first, without "
                "break, or the ranks would wait for each other"
            )
        window.stepped = True
        if window.empty:
            return Update(applied=False)
        applied, square = step_on_gradient(self._optimizer, self._scaler, self._clip)
        if applied and self.scheduler is not None:
            self.scheduler.step()
        return Update(applied, None if self._max_norm is None else square.sqrt())

    def _clip(self) -> Tensor:
        if self._max_norm is None:
            return torch.zeros((), device=self._sync.device)
        held = (parameter for group in self._optimizer.param_groups for parameter in group["params"])
        return clip_to_norm([parameter.grad for parameter in held if parameter.grad is not None], self._max_norm)
