"""The work that both loops do: model, data, batch, optimizer settings."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Size = Literal["tiny", "wide"]
Items = Literal["samples", "counted"]

WORLD_SIZE = 2
MICRO = 8  # samples per micro-step: little work, so that what surrounds it shows
SAMPLES = 8192  # a multiple of every global batch up to K = 512: no tail
FEATURES, CLASSES = 64, 10
HIDDEN: dict[Size, tuple[int, ...]] = {"tiny": (128,), "wide": (1792, 1792, 1792, 1792)}
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01


@dataclass(frozen=True)
class Ran:
    """What a loop leaves.

    Attributes:
        model: the trained model.
        waited: seconds that it waited for the counts of its windows.
    """

    model: nn.Module
    waited: float = 0.0


@dataclass(frozen=True)
class Work:
    """One run of a loop.

    Attributes:
        size: which model: tiny has 9.6 thousand parameters, wide 9.8 million.
        accumulation: micro-steps of a rank in a window, K.
        updates: optimizer steps.
        items: whether the launcher knows the items of a window from the plan, or counts them in the data.
        seed: of the parameters, the data and the sample order.
    """

    size: Size
    accumulation: int
    updates: int
    items: Items = "samples"
    seed: int = 0

    @property
    def global_batch(self) -> int:
        """Samples per update over all ranks."""
        return MICRO * self.accumulation * WORLD_SIZE


def make_model(size: Size) -> nn.Module:
    """A perceptron: linear layers with ReLU between them."""
    widths = (FEATURES, *HIDDEN[size], CLASSES)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def make_data(seed: int) -> tuple[Tensor, Tensor]:
    """Noise around one point per class: features [SAMPLES, FEATURES], classes [SAMPLES]."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    centres = torch.randn(CLASSES, FEATURES, generator=generator)
    return centres[classes] + torch.randn(SAMPLES, FEATURES, generator=generator), classes
