"""The module that wrappers are put around, so that tasks see their own model and never a wrapper."""

from __future__ import annotations

from torch import Tensor, nn

from launcher.train.engines.base import Forward


class AnyForward(nn.Module):
    """Whatever a micro-step does with the model, as one forward pass.

    Args:
        model: the user's model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, forward: Forward) -> Tensor | None:
        """Do it."""
        return forward(self.model)
