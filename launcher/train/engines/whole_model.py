"""What engines share whose ranks hold the whole model, each its own copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from launcher.train.chunks import Kept
from launcher.train.engines.gradients import gradients_of, squared_norm
from launcher.train.engines.wide_gradients import round_gradients, wide_parameters, widen_again
from launcher.train.gradient_step import step_on_gradient
from launcher.train.snapshot import Tensors, load_model_state, load_optimizer_state, model_state, optimizer_state

T = TypeVar("T")


class WholeModel:
    """Each rank steps on the whole gradient, and any of them can keep the whole state.

    Attributes:
        model: the user's model.
    """

    equal_steps = False
    sees_parts = True
    shards = 1
    shard = 0
    model: nn.Module
    _wide: Sequence[nn.Parameter] = ()

    def clip(self, max_norm: float | None) -> Tensor:
        """Clip the reduced gradient, and return this rank's part of the square of its norm before."""
        raise NotImplementedError

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer steps as it is, on gradients in the format of their parameters."""
        self._wide = wide_parameters(self.model)

    def forward_only(self, forward: Callable[[nn.Module], T]) -> T:
        """A forward pass with this rank's model."""
        return forward(self.model)

    def step(
        self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, max_norm: float | None
    ) -> tuple[bool, Tensor]:
        """Step on the gradient that this rank holds, as all others do on theirs."""

        def clip() -> Tensor:
            square = self.clip(max_norm)
            round_gradients(self._wide)
            return square

        result = step_on_gradient(optimizer, scaler, clip)
        widen_again(self._wide)
        return result

    def finite(self) -> bool:
        """Whether the gradient is; each rank looks at all of it, since its part of the norm would not do."""
        return bool(squared_norm(gradients_of(self.model)).isfinite())

    def model_state(self) -> Tensors:
        """The model as this rank has it."""
        return model_state(self.model)

    def load_model_state(self, kept: Kept) -> None:
        """Give this rank's model its state."""
        load_model_state(self.model, kept.whole())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> Tensors:
        """What this rank's optimizer remembers."""
        return optimizer_state(optimizer)

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, kept: Kept) -> None:
        """Give this rank's optimizer its memory back."""
        load_optimizer_state(optimizer, kept.whole())
