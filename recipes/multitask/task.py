"""Several losses on one network: which digit it is, whether it is odd, and the image drawn again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from launcher import Loss, Task

DATA = Path(__file__).parent.parent / "digits" / "digits.csv.gz"
TRAIN_SAMPLES = 1437  # of 1797, as in recipes/digits
OUTPUTS = {"class": 10, "parity": 2, "reconstruction": 64}  # loss → what its head answers with


class Multitask(Task):
    """Three heads on one convolutional trunk.

    It is written in both ways, so that `multitask.backward` can be any of the three; a task of yours needs one.

    Args:
        hidden: width of what the heads share.
    """

    def __init__(self, hidden: int = 64) -> None:
        self.hidden = hidden
        self.train, self.test = load_digits()

    def model(self) -> nn.Module:
        return Network(self.hidden)

    def train_data(self) -> TensorDataset:
        return self.train

    def eval_data(self) -> TensorDataset:
        return self.test

    def loss(self, model: Any, batch: Any) -> Iterator[Loss]:
        """For `sequential`: a forward pass for each loss.

        The graph of one is gone before the next forward begins: that is what saves memory.
        """
        images, _ = batch
        for name, head in model.heads.items():
            yield loss_of(name, head(model.trunk(images)), batch)

    def trunk(self, model: Any, batch: Any) -> Tensor:
        """For `joint` and `shared`: one forward pass of the trunk."""
        images, _ = batch
        features: Tensor = model.trunk(images)
        return features

    def heads(self, model: Any, features: Tensor, batch: Any) -> Iterator[Loss]:
        """For `joint` and `shared`: the losses on what `trunk` returned, one head at a time."""
        for name, head in model.heads.items():
            yield loss_of(name, head(features), batch)

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        images, digits = batch
        answers = model(images)
        return {  # one number per sample each
            "accuracy": (answers["class"].argmax(dim=1) == digits).float(),
            "parity_accuracy": (answers["parity"].argmax(dim=1) == digits % 2).float(),
            "reconstruction_error": (answers["reconstruction"] - images.flatten(1)).square().mean(dim=1),
        }


class Network(nn.Module):
    """A trunk, and a head for each loss. No BatchNorm and no dropout: each sample's losses are its own business."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),  # 32 channels of 4 × 4
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, hidden),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, outputs) for name, outputs in OUTPUTS.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Every head's answers, [batch, outputs of the head]."""
        features = self.trunk(images)
        return {name: head(features) for name, head in self.heads.items()}


def loss_of(name: str, answers: Tensor, batch: Any) -> Loss:
    """The loss of one head: a mean over the samples, which the recipe's `multitask.losses` gives a weight."""
    images, digits = batch
    if name == "reconstruction":
        return Loss(functional.mse_loss(answers, images.flatten(1)), name=name)
    return Loss(functional.cross_entropy(answers, digits if name == "class" else digits % 2), name=name)


def load_digits() -> tuple[TensorDataset, TensorDataset]:
    """The training and the test data of recipes/digits: images [n, 1, 8, 8] from 0 to 1, digits [n]."""
    rows = np.loadtxt(DATA, delimiter=",", dtype=np.int64)
    rows = rows[np.random.RandomState(0).permutation(len(rows))]
    images = torch.tensor(rows[:, :64] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    digits = torch.tensor(rows[:, 64])
    return (
        TensorDataset(images[:TRAIN_SAMPLES], digits[:TRAIN_SAMPLES]),
        TensorDataset(images[TRAIN_SAMPLES:], digits[TRAIN_SAMPLES:]),
    )
