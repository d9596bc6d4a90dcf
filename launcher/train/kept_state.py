"""What forward passes and optimizer steps change, kept aside so that they can be taken back bit for bit."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class RandomState:
    """Where the random numbers of a rank are: Python's, numpy's, torch's, and those of its GPU."""

    python: Any
    numpy: Any
    cpu: Tensor
    cuda: Tensor | None

    @staticmethod
    def of(device: torch.device) -> RandomState:
        """Where they are now.

        Args:
            device: the device of this rank.
        """
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return RandomState(random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state(), cuda)

    def restore(self, device: torch.device) -> None:
        """Go on from here."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)


@dataclass
class _Kept:
    """A buffer of a module, with a copy of what it held when it was last kept."""

    module: nn.Module
    name: str
    buffer: Tensor
    copy: Tensor
    version: int


class KeptBuffers:
    """Copies of a model's buffers (running statistics). Those that nothing changes are copied once.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: dict[tuple[int, str], _Kept] = {}

    def keep(self) -> None:
        """Copy what has changed since the last time."""
        for module in self._model.modules():
            for name, buffer in module._buffers.items():
                if buffer is None:
                    continue
                kept = self._kept.get((id(module), name))
                if kept is None or kept.buffer is not buffer or kept.version != buffer._version:
                    copy = buffer.detach().clone()
                    self._kept[id(module), name] = _Kept(module, name, buffer, copy, buffer._version)

    @torch.no_grad()
    def restore(self) -> None:
        """Give the model the buffers that were there when they were kept."""
        for kept in self._kept.values():
            if kept.buffer._version != kept.version:
                kept.buffer.copy_(kept.copy)
                kept.version = kept.buffer._version
            kept.module._buffers[kept.name] = kept.buffer


class KeptTraining:
    """All that trying micro-steps and optimizer steps changes, before the first real one: copies on the host.

    Args:
        model: the model.
        optimizer: its optimizer.
        device: the device of this rank.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._device = device
        self._model = model
        self._optimizer = optimizer
        self._parameters = [(each, each.detach().to("cpu", copy=True)) for each in model.parameters()]
        self._buffers = KeptBuffers(model)
        self._buffers.keep()
        self._memory = dict(optimizer.state)
        self._settings = [
            {key: value for key, value in group.items() if key != "params"} for group in _groups(optimizer)
        ]
        self._random = RandomState.of(device)

    @torch.no_grad()
    def restore(self) -> None:
        """Let everything be as it was."""
        for parameter, copy in self._parameters:
            parameter.copy_(copy)
            parameter.grad = None
        self._buffers.restore()
        self._optimizer.state.clear()
        self._optimizer.state.update(self._memory)
        for group, settings in zip(_groups(self._optimizer), self._settings, strict=True):
            group.update(settings)
        self._random.restore(self._device)


def _groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return optimizer.param_groups
