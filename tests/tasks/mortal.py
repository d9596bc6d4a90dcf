"""A task whose every update depends on all before it: dropout, momentum, a schedule, clipping, a tail."""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from launcher import Task
from tests.tasks.threats import Fate

SAMPLES = 150


class Mortal(Task):
    """Least squares with dropout, under threats from the environment.

    KILL=R:N kills rank R at its loss number N, and POISON=I whatever rank meets sample I; for THREATS see there. DATA=N
    makes other data. NO_ROOM=FILE finds the disk full for whatever file ends so.
    """

    def __init__(self) -> None:
        self.fate = Fate()
        if "NO_ROOM" in os.environ:
            sys.addaudithook(_no_room)
        rank, _, at = os.environ.get("KILL", "-1:0").partition(":")
        self.left = int(at) if rank == os.environ.get("RANK", "0") else 0
        generator = torch.Generator().manual_seed(int(os.environ.get("DATA", "0")))
        inputs = torch.randn(SAMPLES, 8, generator=generator)
        self.poison = inputs[int(os.environ["POISON"])] if "POISON" in os.environ else None
        self.data = TensorDataset(inputs, inputs.sin().sum(dim=1, keepdim=True))

    def model(self) -> nn.Module:
        layers = [nn.Linear(8, 40), nn.Tanh(), nn.Dropout(0.2), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1)]
        return nn.Sequential(*layers)

    def train_data(self) -> TensorDataset:
        return self.data

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.fate.loss()
        self.left -= 1
        inputs, targets = batch
        if self.left == 0 or (self.poison is not None and bool((inputs == self.poison).all(dim=1).any())):
            os.kill(os.getpid(), signal.SIGKILL)
        return functional.mse_loss(model(inputs), targets)


def _no_room(event: str, arguments: tuple[Any, ...]) -> None:
    """Whatever Python does with files passes here first."""
    if event == "open" and str(arguments[0]).endswith(os.environ["NO_ROOM"]):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Counted(Mortal):
    """Items are counted, so that windows are loaded ahead."""

    def items(self, batch: Any) -> int:
        return len(batch[0])


class Paced(Mortal):
    """Takes its time for as long as the file SLOW is there, so that a test can do something to the run."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if "SLOW" in os.environ and Path(os.environ["SLOW"]).exists():
            time.sleep(0.1)
        return super().loss(model, batch)


class Examined(Mortal):
    """Is evaluated on its data, with random numbers drawn and counted in a buffer.

    As long as the file SLOW is there, each batch takes its time, and SLOW.reached tells that one has begun.
    """

    def model(self) -> nn.Module:
        model = super().model()
        model.register_buffer("examined", torch.zeros((), dtype=torch.int64))
        return model

    def eval_data(self) -> TensorDataset:
        return self.data

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        slow = Path(os.environ.get("SLOW", "/nowhere"))
        if slow.exists():
            slow.with_suffix(".reached").touch()
            time.sleep(0.5)
        inputs, targets = batch
        next(buffer for name, buffer in model.named_buffers() if name.endswith("examined")).add_(1)
        noise = torch.randn(len(inputs))
        return {"loss": (model(inputs) - targets).square().squeeze(1) + noise}


class Undropped(Mortal):
    """Without dropout, whose random numbers a compiler draws in its own way."""

    def model(self) -> nn.Module:
        return nn.Sequential(*(layer for layer in super().model().children() if not isinstance(layer, nn.Dropout)))


class Half(Mortal):
    """Parameters in bf16."""

    def model(self) -> nn.Module:
        return super().model().bfloat16()

    def train_data(self) -> TensorDataset:
        return TensorDataset(*(column.bfloat16() for column in self.data.tensors))


class Augmented(Counted):
    """Samples that are loaded one by one, with noise."""

    def train_data(self) -> Any:
        return Noisy(self.data)


class Noisy:
    """Data with noise from three generators."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        inputs, target = self.data[index]
        return inputs + torch.randn(8) + random.random() + np.random.standard_normal(), target


class Wider(Mortal):
    """Another model."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 30), nn.Tanh(), nn.Linear(30, 1))


class Complex(Mortal):
    """A model that no checkpoint can hold."""

    def model(self) -> nn.Module:
        model = super().model()
        model.register_buffer("phases", torch.zeros(2, dtype=torch.complex128))
        return model


class Steady(Mortal):
    """Nothing is drawn at random, so that the ranks may be others."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 40), nn.Tanh(), nn.Linear(40, 41), nn.Tanh(), nn.Linear(41, 1))


class Centered(Mortal):
    """A model whose buffer changes in each forward pass, and the next ones by it."""

    def model(self) -> nn.Module:
        return RunningMean()


class RunningMean(nn.Module):
    """Subtracts a running mean, of which every rank sees another part."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, inputs: Tensor) -> Tensor:
        centered = inputs - self.mean
        self.mean = (0.5 * self.mean + 0.5 * inputs.mean(0)).detach()
        predicted: Tensor = self.layers(centered)
        return predicted
