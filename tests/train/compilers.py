"""Compilers that are right, wrong, or short of memory, and tasks whose models they compile."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional
from torch.utils.data import TensorDataset

from launcher.train.task import Task

SAMPLES = 24
Backend = Callable[[GraphModule, list[Any]], Callable[..., Any]]


class Right:
    """Compiles to what it was, and notes each time that it runs whether a Dropout in it drops."""

    def __init__(self) -> None:
        self.compiled = 0
        self.runs = 0

    def __call__(self, graph: GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.compiled += 1

        def run(*arguments: Any) -> Any:
            self.runs += 1
            return self.on(graph, arguments)

        return run

    def on(self, graph: GraphModule, arguments: tuple[Any, ...]) -> Any:
        """What the compiled model does."""
        return graph(*arguments)


class Wrong(Right):
    """Gives no gradient to the parameters of a shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def on(self, graph: GraphModule, arguments: tuple[Any, ...]) -> Any:
        kept = (
            value.detach() if isinstance(value, nn.Parameter) and value.shape == self.shape else value
            for value in arguments
        )
        return graph(*kept)


class Rounds(Right):
    """Computes with parameters that are wrong in their last digits."""

    def on(self, graph: GraphModule, arguments: tuple[Any, ...]) -> Any:
        return graph(*(v * (1 + 3e-7) if isinstance(v, nn.Parameter) else v for v in arguments))


class OutOfMemory(Right):
    """Needs more memory than there is the first time."""

    def on(self, graph: GraphModule, arguments: tuple[Any, ...]) -> Any:
        if self.runs == 1:
            raise torch.OutOfMemoryError("no more")
        return super().on(graph, arguments)


class Drops(Right):
    """Drops with random numbers of its own: draws one first."""

    def on(self, graph: GraphModule, arguments: tuple[Any, ...]) -> Any:
        torch.rand(7)
        return super().on(graph, arguments)


class Net(nn.Module):
    """Two layers, statistics between them and something in front of the last one."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.between = between
        self.last = nn.Linear(8, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.between(self.norm(self.first(inputs)).tanh()))
        return outputs


class Noise(nn.Module):
    """Noise in training and in evaluation."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.randn_like(inputs)


class Squares(Task):
    """Least squares."""

    between: type[nn.Module] = nn.Identity

    def model(self) -> nn.Module:
        return Net(self.between())

    def train_data(self) -> TensorDataset:
        inputs = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(0))
        return TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        return functional.mse_loss(model(inputs), targets)


class Dropping(Squares):
    between = nn.Dropout


class Noisy(Squares):
    between = Noise


class Denoising(Squares):
    """Draws its noise beside the model, from three generators."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        noise = torch.randn_like(inputs) + random.random() + float(np.random.random())
        return functional.mse_loss(model(inputs + noise), targets)


class Sensitive(Squares):
    """A wave so fast that the last digits of the parameters move it."""

    calls: ClassVar[list[str]] = []

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.calls.append("as written" if model._compiled_call_impl is None else "compiled")
        loss: Tensor = (1e6 * model(batch[0])).sin().mean()
        return loss


class Large(Squares):
    """Fits nowhere as it is written."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if model._compiled_call_impl is None:
            raise torch.OutOfMemoryError("no more")
        return super().loss(model, batch)
