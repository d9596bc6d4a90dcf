"""The tensors of a checkpoint, read as they are wanted: by whole tensors or by parts, whoever has written them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from launcher.rundir.stored_tensors import stored_chunks, tensor_files, whole_file
from launcher.train.chunks import Part
from launcher.train.snapshot import Numbers, Tensors
from launcher.worker.tensor_file import DTYPES

if TYPE_CHECKING:
    from launcher.worker.chunk_storage import ChunkReader


class KeptTensors:
    """Named tensors of a verified checkpoint.

    Args:
        folder: the checkpoint.
        name: of the tensors: the model, or what the optimizer remembers.
        numbers: what belongs to them and is no tensor.
    """

    def __init__(self, folder: Path, name: str, numbers: Numbers) -> None:
        self.numbers = numbers
        self._whole_file = folder / whole_file(name)
        self._files = tensor_files(folder, name)
        self._reader: ChunkReader | None = None

    @cached_property
    def like(self) -> dict[str, Tensor]:
        """A tensor of each shape and dtype, without values."""
        return {
            chunk.tensor: torch.empty(chunk.shape, dtype=DTYPES[chunk.dtype], device="meta")
            for chunk in stored_chunks(self._files)
        }

    def whole(self) -> Tensors:
        """All of them."""
        if self._files == [self._whole_file]:
            return Tensors(load_file(self._whole_file), self.numbers)
        return Tensors(self._read(self.like), self.numbers)

    def one(self, name: str) -> Tensor:
        """One of them."""
        return self._read({name: self.like[name]})[name]

    def fill(self, parts: Iterable[tuple[str, Part]]) -> None:
        """Write into the memory of parts what was kept of them."""
        from launcher.worker.chunk_storage import ChunkReader, load_chunks  # long to import, and not always needed

        if self._reader is None:
            self._reader = ChunkReader(self._files)
        load_chunks(self._reader, parts)

    def _read(self, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors = {name: torch.empty(like.shape, dtype=like.dtype) for name, like in wanted.items()}
        self.fill((name, Part.whole(tensor)) for name, tensor in tensors.items())
        return tensors
