"""BatchNorm layers: which of them take statistics from the micro-batch, and the model without that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def statistics_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The layers that take their statistics from the batch that they see, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None)
    }


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """BatchNorm with fixed statistics: the running ones, or mean 0 and variance 1 where a layer keeps none."""
    before = [
        (layer, layer.training, layer.running_mean, layer.running_var) for layer in statistics_layers(model).values()
    ]
    for layer, _, mean, _ in before:
        layer.training = False
        if mean is None:
            device = next((parameter.device for parameter in model.parameters()), None)
            layer.running_mean = torch.zeros(layer.num_features, device=device)
            layer.running_var = torch.ones(layer.num_features, device=device)
    try:
        yield
    finally:
        for layer, training, mean, variance in before:
            layer.training, layer.running_mean, layer.running_var = training, mean, variance


@contextmanager
def unsynchronised(model: nn.Module) -> Iterator[None]:
    """SyncBatchNorm for one rank alone, which must not wait for the others: one batch needs no other rank's part."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.SyncBatchNorm)]
    groups = [layer.process_group for layer in layers]
    if layers and dist.is_initialized():
        alone = dist.new_group([dist.get_rank()], use_local_synchronization=True)
        for layer in layers:
            layer.process_group = alone
    try:
        yield
    finally:
        for layer, group in zip(layers, groups, strict=True):
            layer.process_group = group
