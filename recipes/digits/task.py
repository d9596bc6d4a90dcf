"""Handwritten digits of 8 × 8 pixels: a small convolutional network, trained in seconds on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from launcher import Task

DATA = Path(__file__).with_name("digits.csv.gz")
TRAIN_SAMPLES = 1437  # of 1797; the other 360 are the test data


class Digits(Task):
    """Recognise the digit in an image.

    Args:
        hidden: width of the layer between the convolutions and the ten answers.
    """

    def __init__(self, hidden: int = 64) -> None:
        self.hidden = hidden
        self.train, self.test = load_digits()

    def model(self) -> nn.Module:
        # No BatchNorm and no dropout: each sample's loss is its own business, so the loss curve
        # is the same however a batch is split into ranks and micro-batches.
        return nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),  # 32 channels of 4 × 4
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, 10),
        )

    def train_data(self) -> TensorDataset:
        return self.train

    def eval_data(self) -> TensorDataset:
        return self.test

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        images, digits = batch
        return functional.cross_entropy(model(images), digits)  # a mean, never divided by the micro-steps

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        images, digits = batch
        scores = model(images)
        return {  # one number per sample each
            "accuracy": (scores.argmax(dim=1) == digits).float(),
            "loss": functional.cross_entropy(scores, digits, reduction="none"),
        }


def load_digits() -> tuple[TensorDataset, TensorDataset]:
    """The training and the test data: images [n, 1, 8, 8] from 0 to 1, digits [n]."""
    rows = np.loadtxt(DATA, delimiter=",", dtype=np.int64)  # 64 pixels of 0..16, then the digit
    # One split for everybody, whatever the run's seed: RandomState gives the same in every version of numpy.
    rows = rows[np.random.RandomState(0).permutation(len(rows))]
    images = torch.tensor(rows[:, :64] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    digits = torch.tensor(rows[:, 64])
    return (
        TensorDataset(images[:TRAIN_SAMPLES], digits[:TRAIN_SAMPLES]),
        TensorDataset(images[TRAIN_SAMPLES:], digits[TRAIN_SAMPLES:]),
    )
