"""Tasks whose accumulated gradient is not that of one batch, each for a reason of its own."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from launcher import Loss, Task

SAMPLES = 64
WIDTH = 6


class Sound(Task):
    """Two layers of least squares: equivalent."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))

    def train_data(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(SAMPLES, 4, generator=generator)
        return TensorDataset(inputs, inputs.square().sum(dim=1, keepdim=True))

    def loss(self, model: nn.Module, batch: Any) -> Any:
        inputs, targets = batch
        return functional.mse_loss(model(inputs), targets)


class Large(Sound):
    """The same on a device with room for eight samples: equivalent, and the reference is in slices."""

    def loss(self, model: nn.Module, batch: Any) -> Any:
        if len(batch[0]) > 8:
            raise torch.OutOfMemoryError("no room")
        return super().loss(model, batch)


class Normalised(Sound):
    """BatchNorm."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))


class NormalisedWithoutMemory(Sound):
    """BatchNorm that keeps no running statistics, and takes those of the batch in evaluation mode too."""

    def model(self) -> nn.Module:
        norm = nn.BatchNorm1d(WIDTH, track_running_stats=False).eval()
        return nn.Sequential(nn.Linear(4, WIDTH), norm, nn.Tanh(), nn.Linear(WIDTH, 1))


class Dropped(Sound):
    """Dropout in a layer."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, WIDTH), nn.Dropout(0.5), nn.Linear(WIDTH, 1))


class Noisy(Sound):
    """Dropout and noise in functions, and a layer that is left out now and then by Python's own random numbers."""

    def model(self) -> nn.Module:
        return NoisyNetwork()


class NoisyNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, WIDTH)
        self.second = NoisyLayer()
        self.own = torch.Generator().manual_seed(5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        hidden = hidden + torch.randn(hidden.shape, generator=self.own, dtype=hidden.dtype)
        answer: Tensor = self.second(functional.dropout(hidden, 0.2))
        return answer


class NoisyLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        answer: Tensor = self.linear(inputs)
        return answer * 2 if random.random() < 0.5 else answer


class Whitened(Sound):
    """A layer of one's own that takes the mean of the batch away."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, WIDTH), Whitening(), nn.Tanh(), nn.Linear(WIDTH, 1))


class Whitening(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.mean(dim=0, keepdim=True)


class Remembering(Sound):
    """A layer that changes a buffer in every forward pass, and reads it in the next."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, WIDTH)), nn.Linear(WIDTH, 1))


class NormalisedAndDropped(Sound):
    """BatchNorm and dropout."""

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(4, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh(), nn.Dropout(0.3), nn.Linear(WIDTH, 1)
        )


class Ragged(Sound):
    """Samples with different numbers of values, padded; the loss is a mean over values, which nobody counts."""

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def train_data(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(1 + index % 7, 1, generator=generator) for index in range(SAMPLES)]

    def collate(self, samples: list[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(samples, batch_first=True, padding_value=float("nan"))

    def loss(self, model: nn.Module, batch: Any) -> Any:
        values = batch[~batch.isnan()].unsqueeze(1)
        return functional.mse_loss(model(values), values.square())


class RaggedAndLarge(Ragged):
    """The same on a device with room for four samples."""

    def loss(self, model: nn.Module, batch: Any) -> Any:
        if len(batch) > 4:
            raise torch.OutOfMemoryError("no room")
        return super().loss(model, batch)


class Counted(Ragged):
    """The same, counted: equivalent."""

    def items(self, batch: Any) -> int:
        return int((~batch.isnan()).sum())


class PaddingCounted(Ragged):
    """The same, with its padding counted too."""

    def items(self, batch: Any) -> int:
        return int(batch.numel())


class Summed(Sound):
    """A sum that does not say so, as one of two losses."""

    def loss(self, model: nn.Module, batch: Any) -> Iterator[Loss]:
        inputs, targets = batch
        yield Loss(functional.mse_loss(model(inputs), targets), name="fit")
        yield Loss(model(inputs).square().sum(), name="size")


class Contrastive(Sound):
    """A sample's loss depends on the samples beside it."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, _ = batch
        answers = model(inputs)
        return functional.cross_entropy(-(answers - answers.T).square(), torch.arange(len(inputs)))


class OwnStart(Sound):
    """A bias that is another on every rank."""

    def model(self) -> nn.Module:
        model = super().model()
        with torch.no_grad():
            model[2].bias += int(os.environ["RANK"])  # type: ignore[index]  # it is a Sequential
        return model


class OwnLoss(Sound):
    """A loss that is another on every rank."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        loss: Tensor = super().loss(model, batch) * (1 + int(os.environ["RANK"]))
        return loss


class OwnData(Sound):
    """As much data on every rank, but not the same."""

    def train_data(self) -> Any:
        inputs, targets = super().train_data().tensors
        return TensorDataset(inputs + int(os.environ["RANK"]), targets)


class Augmented(Sound):
    """Samples with noise of their own, drawn whenever one is asked for: equivalent for the same draws."""

    def train_data(self) -> Any:
        return NoisySamples(super().train_data())


class NoisySamples:
    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        inputs, targets = self.data[index]
        return inputs + torch.randn(4) * random.random(), targets


class Collated(Sound):
    """Noise that is drawn for a batch as it is made."""

    def collate(self, samples: list[Any]) -> Any:
        inputs, targets = super().collate(samples)
        return inputs + torch.randn_like(inputs), targets


class Moody(Sound):
    """A loss that depends on how often it was asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.asked += 1
        loss: Tensor = super().loss(model, batch) * (1 + self.asked % 3)
        return loss


class NotFinite(Sound):
    """A square root of zero: the loss is finite, and its gradient is not."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, _ = batch
        roots: Tensor = (0 * model(inputs)).abs().sqrt()
        return roots.mean()


class Disagreeing(Sound):
    """Losses written in two ways that do not agree."""

    def loss(self, model: nn.Module, batch: Any) -> Iterator[Loss]:
        yield Loss(3 * super().loss(model, batch), name="fit")

    def trunk(self, model: nn.Module, batch: Any) -> Tensor:
        answers: Tensor = model(batch[0])
        return answers

    def heads(self, model: nn.Module, features: Tensor, batch: Any) -> Iterator[Loss]:
        yield Loss(functional.mse_loss(features, batch[1]), name="fit")


class Cancelling(Sound):
    """Large numbers that cancel: float32 rounds away what float64 keeps."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        large: Tensor = (model(inputs) - targets + 1e4).square() - 1e8
        small: Tensor = model(inputs) * -2e4
        return large.mean() + small.mean()


class SingleOnly(Cancelling):
    """The same, in a model that takes float32 alone."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if batch[0].dtype != torch.float32:
            raise TypeError("float32 only")
        loss: Tensor = super().loss(model, batch)
        return loss
