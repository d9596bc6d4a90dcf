"""What a proof can switch off in a model, to see whether the error goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from launcher.train.proof.batchnorm import frozen
from launcher.train.proof.chance import SeededForward, without_chance


@dataclass(frozen=True)
class Switches:
    """The switches; all are on as the user has it.

    Attributes:
        batch_statistics: whether BatchNorm takes its statistics from the micro-batch.
        chance: whether the model draws random numbers.
    """

    batch_statistics: bool = True
    chance: bool = True

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model as the switches say, for as long as the context lasts; its buffers are put back after it."""
        statistics = nullcontext() if self.batch_statistics else frozen(model)
        chance = nullcontext() if self.chance else without_chance()
        with _buffers_kept(model), statistics, chance:
            yield

    def forward(self, seed: int) -> AbstractContextManager[Any]:
        """The context of each forward pass."""
        return nullcontext() if self.chance else SeededForward(seed)


AS_IT_IS = Switches()
ALL_OFF = Switches(batch_statistics=False, chance=False)


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Running statistics and the like are those of before, whatever forward passes do to them."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
