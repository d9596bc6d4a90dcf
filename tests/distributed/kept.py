"""States of ranks as the files of a checkpoint hold them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from launcher.train.chunks import Part, Parts
from launcher.train.snapshot import Tensors
from launcher.worker.checkpoint_files import MODEL, Captured
from launcher.worker.kept_tensors import KeptTensors

_NOTHING = Tensors({}, {})


@contextmanager
def kept(state: Tensors | Parts) -> Iterator[KeptTensors]:
    """What all ranks have written of a state, to be read again; every rank must ask."""
    first = dist.get_rank() == 0
    with tempfile.TemporaryDirectory() as own:
        told: list[str] = [own]
        dist.broadcast_object_list(told, 0)
        folder = Path(told[0])
        captured = Captured(1, state, _NOTHING, {})
        captured.write_parts(folder, dist.get_rank())
        dist.barrier()
        if first:
            captured.write(folder)
        dist.barrier()
        yield KeptTensors(folder, MODEL, state.numbers)
        dist.barrier()


def whole(state: Tensors | Parts) -> Tensors:
    """A state put together by messages instead; every rank must ask."""
    if isinstance(state, Tensors):
        return Tensors({name: tensor.clone() for name, tensor in state.tensors.items()}, state.numbers)
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, state.tensors)
    return Tensors({name: _put_together([parts[name] for parts in told]) for name in state.tensors}, state.numbers)


def _put_together(parts: Sequence[Part]) -> Tensor:
    chunks = [chunk for part in parts for chunk in part.chunks]
    values = torch.zeros(parts[0].shape, dtype=chunks[0].values.dtype)
    for chunk in chunks:
        values[tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.values.shape, strict=True))] = (
            chunk.values
        )
    return values
