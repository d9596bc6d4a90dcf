"""The work of the benchmark: a perceptron on noise."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from launcher import Task

SAMPLES, FEATURES, CLASSES = 8192, 64, 10
HIDDEN = (1184, 1184, 1184)


class Perceptron(Task):
    """Linear layers with ReLU between them, on samples in no order that could be learned."""

    def model(self) -> nn.Module:
        """2.9 million parameters: 11.6 MB of gradients."""
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((FEATURES, *HIDDEN, CLASSES)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def train_data(self) -> TensorDataset:
        """The data, as tensors."""
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(SAMPLES, FEATURES, generator=generator)
        return TensorDataset(features, torch.randint(CLASSES, (SAMPLES,), generator=generator))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Cross-entropy, the mean over the micro-batch."""
        features, classes = batch
        return functional.cross_entropy(model(features), classes)
