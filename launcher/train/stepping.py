"""The optimizer step of an update, at the learning rate of the plan."""

from __future__ import annotations

import torch
from torch import Tensor

from launcher.plan.learning_rate import LearningRatePlan
from launcher.train.engines.base import Engine
from launcher.train.optimizer import set_learning_rate
from launcher.train.snapshot import Numbers


class Stepper:
    """Steps on the reduced gradient of each update, at the learning rate of the plan.

    An update that is skipped holds the schedule: the next one has its learning rate.

    Attributes:
        skipped: updates that were skipped so far.
        optimizer: the optimizer.

    Args:
        engine: holds the reduced gradient.
        optimizer: the optimizer.
        rate: the learning rate of each update.
        max_norm: clip the gradient to this norm; None does not clip.
        half: whether gradients are those of fp16, whose losses are scaled so that small gradients are not lost
            (Micikevicius et al. 2018, "Mixed Precision Training").
        skip_non_finite: leave out updates whose gradient is not finite, which fp16 does in any case.
        scaler: scales losses; None makes one.
    """

    def __init__(
        self,
        engine: Engine,
        optimizer: torch.optim.Optimizer,
        rate: LearningRatePlan,
        max_norm: float | None,
        half: bool,
        skip_non_finite: bool = False,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.skipped = 0
        self._engine = engine
        self.optimizer = optimizer
        self._rate = rate
        self._max_norm = max_norm
        self._skips = skip_non_finite and not half
        self._scaler = scaler or torch.amp.GradScaler(engine.device.type, enabled=half)
        self.scale(torch.zeros((), device=engine.device))  # sets the scale up, also on a rank that never has a loss

    def scale(self, loss: Tensor) -> Tensor:
        """What to take backward for a loss; the scale stays the same throughout a window."""
        scaled: Tensor = self._scaler.scale(loss)
        return scaled

    def loss_scale(self) -> Tensor:
        """What losses are multiplied by, a scalar on the device, which is not waited for."""
        return self.scale(torch.ones((), device=self._engine.device))

    def rate_of(self, update: int) -> float:
        """The learning rate of an update (from 0), which skipped ones have put off."""
        return self._rate.at(update, self.skipped)

    def step(self, update: int) -> Tensor:
        """Step on the reduced gradient, unless it is to be left out for what is not finite, and clear it.

        Args:
            update: the update, from 0.

        Returns:
            This rank's part of the square of the gradient's norm before clipping, a float64 scalar.
        """
        set_learning_rate(self.optimizer, self._rate.factor(update, self.skipped))
        if self._skips and not self._engine.finite():
            self.skipped += 1
            square = self._engine.clip(None)
            self.optimizer.zero_grad(set_to_none=True)
            return square
        applied, square = self._engine.step(self.optimizer, self._scaler, self._max_norm)
        self.skipped += not applied
        return square

    def state(self) -> Numbers:
        """What the optimizer itself does not remember."""
        return {"skipped": self.skipped, "scaler": self._scaler.state_dict()}

    def restore(self, state: Numbers) -> None:
        """Go on from the updates before."""
        self.skipped = state["skipped"]
        if state["scaler"]:  # a fork may have begun without fp16
            self._scaler.load_state_dict(state["scaler"])

    def skip(self) -> Tensor:
        """Pass over an update whose window had no items; a float64 zero, the square of no gradient's norm."""
        self.skipped += 1
        return torch.zeros((), dtype=torch.float64, device=self._engine.device)
