from __future__ import annotations

import torch
from torch import nn

from launcher.train.engines.gradients import touch_all


class Mixed(nn.Module):
    """Parameters of all kinds that PyTorch has gradients for."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters_ = nn.ParameterList(
            torch.full((2, 3), float("nan"), dtype=dtype)
            for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex64)
        )


def test_touching_gives_every_parameter_a_gradient_of_zeros() -> None:
    model = Mixed()
    touched = touch_all(model)
    touched.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert touched == 0
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
