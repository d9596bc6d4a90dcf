from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from launcher.train.finite import FiniteGuard, NonFiniteError
from launcher.train.step_result import StepResult


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


def result(loss: float, grad_norm: float) -> StepResult:
    given: Any = SimpleNamespace(losses={"loss": loss}, grad_norm=grad_norm, window=SimpleNamespace(update=6))
    found: StepResult = given
    return found


def test_what_is_not_finite_at_any_scale_ends_a_run_in_fp16() -> None:
    guard = FiniteGuard("stop", half=True)
    for finite in range(10, 40):  # an overflow now and then is part of the method
        guard.after(result(1.0, math.inf if finite % 3 else 1.0))
    guard.after(result(1.0, 1.0))
    for _ in range(31):
        guard.after(result(1.0, math.nan))
    with pytest.raises(NonFiniteError, match="Update 7 is not finite: loss nan, gradient norm nan"):
        guard.after(result(math.nan, math.nan))
    leaves_out = FiniteGuard("skip", half=True)
    for _ in range(100):
        leaves_out.after(result(math.nan, math.nan))
