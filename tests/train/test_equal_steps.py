from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

from launcher.plan.windows import Window
from launcher.recipe.schema import MultitaskSection
from launcher.train.accumulation import Accumulation, LoadedWindow, MicroBatchData
from launcher.train.engines.base import Forward
from launcher.train.engines.single import SingleEngine
from launcher.train.task import Task
from launcher.train.task_losses import TaskLosses


class Tokens(Task):
    """The mean over the rows that are not negative."""

    def model(self) -> nn.Module:
        return nn.Linear(2, 1, bias=False)

    def train_data(self) -> list[Tensor]:
        return []

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        kept = batch[batch[:, 0] >= 0]
        mean: Tensor = model(kept).mean()  # of no rows: not a number
        return mean

    def items(self, batch: Tensor) -> int:
        return int((batch[:, 0] >= 0).sum())


class Together(SingleEngine):
    """An engine whose ranks go through every forward pass together, and how often it was asked to."""

    equal_steps = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, torch.device("cpu"))
        self.boundaries: list[bool] = []

    def micro_step(self, forward: Forward, *, boundary: bool) -> None:
        self.boundaries.append(boundary)
        super().micro_step(forward, boundary=boundary)


@pytest.mark.parametrize("own", [0, 1, 2])
def test_steps_that_a_rank_lacks_are_filled_with_weight_zero(own: int) -> None:
    torch.manual_seed(0)
    task = Tokens()
    engine = Together(task.model())
    rows = torch.rand(3, 2)
    without_items = MicroBatchData(-rows, {"loss": 0})
    mine = (MicroBatchData(rows, {"loss": 3}), without_items)[:own]
    filler = MicroBatchData(torch.rand(4, 2), {"loss": 4})
    accumulation = Accumulation(
        engine,
        TaskLosses(task, MultitaskSection()),
        {"loss": 1.0},
        "joint",
        contextlib.nullcontext(),
        lambda loss: loss,
        filler=lambda: filler,
    )
    window = Window(0, 0, 0, samples=15, micro=3, world_size=2, samples_seen=15)

    losses = accumulation.accumulate(LoadedWindow(window, mine, (12,)))

    assert engine.boundaries == [False, False, True]  # of 5 micro-batches the busiest rank has 3
    expected = rows.sum(0, keepdim=True) / 12 if own else torch.zeros(1, 2)
    weight = engine.model.weight
    assert isinstance(weight, nn.Parameter) and weight.grad is not None
    torch.testing.assert_close(weight.grad, expected)
    assert losses.isfinite().all()
