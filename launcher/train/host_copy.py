"""Copies of the state of a training on the host, which later updates do not change."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from launcher.train.chunks import Chunk, Parts
from launcher.train.snapshot import Tensors


class HostCopy:
    """Copies of a state on the host.

    Each is made in the memory of the one before: to get memory from the system takes longer than to fill it.
    """

    def __init__(self) -> None:
        self._before: dict[str, Tensor] = {}
        self._memory: dict[str, Tensor] = {}

    def of(self, state: Tensors | Parts) -> Tensors | Parts:
        """Copy a state over the copy before."""
        self._before, self._memory = self._memory, {}
        if isinstance(state, Parts):
            parts = {
                name: replace(part, chunks=tuple(self._of_chunk(name, chunk) for chunk in part.chunks))
                for name, part in state.tensors.items()
            }
            return Parts(parts, state.numbers)
        return Tensors({name: self._of(name, tensor) for name, tensor in state.tensors.items()}, state.numbers)

    def _of_chunk(self, name: str, chunk: Chunk) -> Chunk:
        return replace(chunk, values=self._of(f"{name} {chunk.offsets}", chunk.values))

    def _of(self, key: str, tensor: Tensor) -> Tensor:
        memory = self._before.get(key)
        if memory is None or (memory.shape, memory.dtype) != (tensor.shape, tensor.dtype):
            memory = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        self._memory[key] = memory.copy_(tensor)
        return memory
