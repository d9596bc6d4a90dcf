"""What forward passes change is taken back bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from launcher.train.kept_state import KeptBuffers, RandomState

CPU = torch.device("cpu")


def test_statistics_of_a_batchnorm_are_taken_back() -> None:
    """Of which PyTorch says by no version that they have changed."""
    model = nn.Sequential(nn.BatchNorm1d(2))
    kept = KeptBuffers(model)
    for _ in range(2):
        kept.keep()
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model(torch.randn(5, 2))
        assert not torch.equal(before["0.running_mean"], dict(model.named_buffers())["0.running_mean"])
        kept.restore()
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
        model(torch.randn(5, 2))


def test_a_buffer_that_was_replaced_is_the_one_of_before() -> None:
    model = nn.BatchNorm1d(2)
    kept, before = KeptBuffers(model), model.running_mean
    kept.keep()
    model.running_mean = torch.ones(2)
    kept.restore()
    assert model.running_mean is before


@pytest.mark.parametrize(
    "draw", [random.random, np.random.standard_normal, lambda: torch.rand(()), lambda: np.random.random()]
)
def test_drawing_is_seen(draw: Callable[[], object]) -> None:
    state = RandomState.of(CPU)
    assert state.is_at(CPU)
    draw()
    assert not state.is_at(CPU)
    state.restore(CPU)
    assert state.is_at(CPU)
