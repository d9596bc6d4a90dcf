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

    def is_at(self, device: torch.device) -> bool:
        """Whether they are here still, since nothing was drawn."""
        now = RandomState.of(device)
        name, keys, *rest = self.numpy
        name_now, keys_now, *rest_now = now.numpy
        return (
            self.python == now.python
            and (name, rest) == (name_now, rest_now)
            and np.array_equal(keys, keys_now)
            and torch.equal(self.cpu, now.cpu)
            and (self.cuda is None or now.cuda is None or torch.equal(self.cuda, now.cuda))
        )

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


class KeptBuffers:
    """Copies of a model's buffers (running statistics).

    All of them, each time: PyTorch counts no new version of a buffer that a BatchNorm has changed (measured, 2.13).

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: dict[tuple[int, str], _Kept] = {}

    @torch.no_grad()
    def keep(self) -> None:
        """Copy them, as they are now."""
        for module in self._model.modules():
            for name, buffer in module._buffers.items():
                if buffer is None:
                    continue
                kept = self._kept.get((id(module), name))
                if kept is not None and kept.buffer is buffer and kept.copy.shape == buffer.shape:
                    kept.copy.copy_(buffer)
                else:
                    self._kept[id(module), name] = _Kept(module, name, buffer, buffer.detach().clone())

    @torch.no_grad()
    def restore(self) -> None:
        """Give the model the buffers that were there when they were kept."""
        for kept in self._kept.values():
            kept.buffer.copy_(kept.copy)
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
