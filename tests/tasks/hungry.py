"""A task that runs out of memory as a GPU does: above so many samples, or when a test asks for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from launcher import Task

SAMPLES = 200


class Hungry(Task):
    """Least squares with statistics of what it has seen.

    Args:
        most: samples that fit into a micro-step.
        dropout: share of a layer's outputs that are dropped at random.
        fails: rank → which of its calls of `loss`, from 1, fail all the same.
        where: what fails, backward or forward.
        dies: rank → which of its calls raise another error.
        once: a folder, in which each failure leaves a mark that keeps it from happening again.
        journal: a folder in which each rank keeps the sizes of its micro-batches.
    """

    def __init__(
        self,
        most: int = 12,
        dropout: float = 0.0,
        fails: dict[str, list[int]] | None = None,
        where: str = "backward",
        dies: dict[str, list[int]] | None = None,
        once: str = "",
        journal: str = "",
    ) -> None:
        self.most = most
        self.dropout = dropout
        self.fails = (fails or {}).get(os.environ.get("RANK", "0"), [])
        self.dies = (dies or {}).get(os.environ.get("RANK", "0"), [])
        self.where = where
        self.once = Path(once) / os.environ.get("RANK", "0") if once else None
        self.journal = Path(journal) / os.environ.get("RANK", "0") if journal else None
        self.calls = 0
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(SAMPLES, 8, generator=generator)
        self.data = TensorDataset(inputs, inputs.sin().sum(dim=1, keepdim=True))

    def model(self) -> nn.Module:
        return Net(self.dropout)

    def train_data(self) -> Any:
        return self.data

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        self.calls += 1
        if self.calls in self.dies and self.happens("dies"):
            raise ValueError("bad pixel in sample 17")
        fails = len(inputs) > self.most or (self.calls in self.fails and self.happens("fails"))
        if self.journal is not None:
            with self.journal.open("a") as file:
                file.write(f"{len(inputs)}{' fails' if fails else ''}\n")
        if fails and self.where == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        outputs = model(inputs)
        return functional.mse_loss(Fails.apply(outputs) if fails else outputs, targets)  # type: ignore[no-untyped-call]  # torch's

    def happens(self, what: str) -> bool:
        """Whether a failure has not happened before, if it is to happen once."""
        if self.once is None:
            return True
        try:
            self.once.with_name(f"{self.once.name}.{what}.{self.calls}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Net(nn.Module):
    """A perceptron that counts its forward passes, as BatchNorm does, and adds up what it is given."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        layers = [nn.Linear(8, 40), nn.Tanh(), nn.Dropout(dropout), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1)]
        self.passes: Tensor
        self.seen: Tensor
        self.layers = nn.Sequential(*layers)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros(8))
        self.register_buffer("constant", torch.ones(3))

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes.add_(1)
        self.seen = self.seen * 0.9 + inputs.sum(dim=0)
        outputs: Tensor = self.layers(inputs)
        return outputs


class Fails(torch.autograd.Function):
    """Runs out of memory in its backward."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor) -> Tensor:
        return outputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Evaluated(Hungry):
    """Is evaluated on what it is trained on; what fails is calls of `evaluate`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.fails_evaluating, self.fails = self.fails, []
        self.evaluations = 0

    def eval_data(self) -> Any:
        return self.data

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        self.evaluations += 1
        if self.evaluations in self.fails_evaluating:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        inputs, targets = batch
        return {"loss": (model(inputs) - targets).square().squeeze(1)}


class Ragged(Hungry):
    """Samples of different lengths, of which those above `most` numbers in a micro-batch together do not fit."""

    def train_data(self) -> Any:
        return [torch.ones(1 + index % 7) for index in range(SAMPLES)]

    def collate(self, samples: list[Tensor]) -> tuple[Tensor, Tensor]:
        padded = nn.utils.rnn.pad_sequence(samples, batch_first=True)
        inputs = functional.pad(padded, (0, 8 - padded.shape[1]))
        self.numbers = padded.numel()
        return inputs, inputs.sum(dim=1, keepdim=True)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if self.numbers > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        inputs, targets = batch
        return functional.mse_loss(model(inputs), targets)


class Noisy(Hungry):
    """Samples that draw random numbers as they are loaded, and whose items are counted."""

    def train_data(self) -> Any:
        return Drawing(self.data)

    def items(self, batch: Any) -> int:
        return len(batch[0])


class Drawing:
    """Data with noise from two generators."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        inputs, target = self.data[index]
        return inputs + 0.1 * torch.randn(8) + np.random.random(), target
