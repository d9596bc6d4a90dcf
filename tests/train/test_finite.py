from __future__ import annotations

import pytest
import torch
from torch import nn

from launcher.train.finite import FiniteGuard, NonFiniteError


def test_a_state_that_is_not_finite_is_not_kept() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    guard = FiniteGuard("skip", half=False)
    guard.before_keeping(model, 3)
    model[1].get_buffer("running_mean")[1] = torch.nan
    with pytest.raises(NonFiniteError, match=r"After update 3 1\.running_mean is not finite"):
        guard.before_keeping(model, 3)
    FiniteGuard("off", half=False).before_keeping(model, 3)
    with torch.no_grad():
        model[0].get_parameter("bias")[0] = -torch.inf
    with pytest.raises(NonFiniteError, match=r"After update 4 0\.bias is not finite"):
        guard.before_keeping(model, 4)


def test_a_buffer_may_mask_by_infinity() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.full((2, 2), -torch.inf))
    FiniteGuard("stop", half=False).before_keeping(model, 1)
