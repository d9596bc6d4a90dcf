"""Chunks of tensors in safetensors files, for `torch.distributed.checkpoint`, whose own files hold pickles."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from launcher.rundir.durable import write_durably
from launcher.rundir.manifest import FileFacts
from launcher.rundir.stored_tensors import StoredChunk, chunk_table, stored_chunks
from launcher.train.chunks import Part
from launcher.worker.chunk_planners import PartsLoadPlanner, PartsSavePlanner
from launcher.worker.tensor_file import DTYPES, tensor_file

# Each rank saves and loads by itself, on purpose; torch takes it for an oversight.
_ALONE = r"torch\.distributed is (disabled, )?unavailable or uninitialized|torch\.distributed is disabled"


def save_chunks(path: Path, parts: Mapping[str, Part], moved: Callable[[], None]) -> FileFacts:
    """Write the chunks of this rank's parts to a file, so that they survive a loss of power.

    Args:
        path: the file, which must not be there.
        parts: name → part.
        moved: called whenever some of it is written.

    Raises:
        OSError: it cannot be written.
    """
    writer = ChunkWriter(path, moved)
    _alone(lambda: save(dict(parts), storage_writer=writer, planner=PartsSavePlanner(), no_dist=True))
    return writer.facts


def load_chunks(reader: ChunkReader, parts: Iterable[tuple[str, Part]]) -> None:
    """Read what belongs into parts of tensors, and no more.

    Args:
        reader: of the files of all who have written some of them.
        parts: each with the name of its tensor.

    Raises:
        OSError: they cannot be read.
        ValueError: a tensor has another shape, or not all of it was written.
    """
    wanted: dict[str, list[Part]] = {}
    for name, part in parts:
        wanted.setdefault(name, []).append(part)
    _alone(lambda: load(dict(wanted), storage_reader=reader, planner=PartsLoadPlanner(), no_dist=True))


def _alone(do: Callable[[], object]) -> None:
    """Let torch do it, and raise what went wrong rather than its own exception, which no `except Exception` takes."""
    warnings.filterwarnings("ignore", _ALONE, UserWarning)
    try:
        do()
    except CheckpointException as failed:
        error, _ = next(iter(failed.failures.values()))
        raise error from failed


class ChunkWriter(StorageWriter):
    """Writes what one rank has to write into one file.

    Args:
        path: the file.
        moved: called whenever some of it is written.

    Attributes:
        facts: of the file, once it is written.
    """

    facts: FileFacts

    def __init__(self, path: Path, moved: Callable[[], None]) -> None:
        self._path = path
        self._moved = moved

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the chunks of a plan, and wait until they are on the disk."""
        tensors, table = {}, {}
        for number, item in enumerate(plan.items):
            values, key = planner.resolve_data(item), str(number)
            if not isinstance(values, torch.Tensor) or item.tensor_data is None or item.index.offset is None:
                raise TypeError(f"{item.index.fqn} is no tensor")
            tensors[key] = values.detach().contiguous()
            table[key] = (item.index.fqn, item.index.offset, item.tensor_data.size)
        self.facts = write_durably(self._path, tensor_file(tensors, chunk_table(table)), self._moved)
        return _done([WriteResult(item.index, tensors[str(at)].nbytes, None) for at, item in enumerate(plan.items)])

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Nothing: each file says itself what it holds, and the manifest lists the files."""

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing: a writer writes once."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing is needed."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """As they are."""
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """It is asked for by nobody's id."""
        return False


class ChunkReader(StorageReader):
    """Reads chunks, and whole tensors, from the files of a verified checkpoint.

    Args:
        files: all of them.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._stored = {MetadataIndex(chunk.tensor, chunk.offsets): chunk for chunk in stored_chunks(files)}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What there is, from the heads of the files."""
        tensors: dict[str, TensorStorageMetadata] = {}
        for chunk in self._stored.values():
            properties = TensorProperties(DTYPES[chunk.dtype])
            found = tensors.setdefault(chunk.tensor, TensorStorageMetadata(properties, torch.Size(chunk.shape), []))
            found.chunks.append(ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes)))
        return Metadata(dict(tensors))

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read the items of a plan, one file after the other."""
        placed = sorted(((self._stored[item.storage_index], item) for item in plan.items), key=lambda it: it[0].file)
        with torch.no_grad():
            for file, items in groupby(placed, key=lambda it: it[0].file):
                with safe_open(file, framework="pt") as opened:
                    for chunk, item in items:
                        planner.resolve_tensor(item).copy_(_read(opened, chunk, item))
        return _done(None)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing: a reader reads one checkpoint."""

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing is needed."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As they are."""
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """It is asked for by nobody's id."""
        return False


def _read(opened: Any, chunk: StoredChunk, item: ReadItem) -> torch.Tensor:
    """The elements of an item; of a chunk that is wanted in part, the rest is not read."""
    if not chunk.sizes:
        single: torch.Tensor = opened.get_tensor(chunk.key)
        return single
    box = tuple(slice(at, at + length) for at, length in zip(item.storage_offsets, item.lengths, strict=True))
    values: torch.Tensor = opened.get_slice(chunk.key)[box]
    return values


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
