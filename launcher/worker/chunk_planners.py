"""What of the tensors of a checkpoint this rank writes, and reads, for `torch.distributed.checkpoint`.

Each rank saves and loads by itself: what it has to write follows from its own parts, and what it has to read from the
heads of the files of all ranks. The ranks tell each other nothing, so none waits for another's disk.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from launcher.train.chunks import Chunk, Part


class PartsSavePlanner(SavePlanner):
    """Plans to write the chunks of this rank's parts."""

    def set_up_planner(
        self, state_dict: dict[str, Any], storage_meta: StorageMeta | None = None, is_coordinator: bool = False
    ) -> None:
        """Take the parts, by name."""
        self._parts: dict[str, Part] = state_dict

    def create_local_plan(self) -> SavePlan:
        """One item for each chunk, in the order of the names: a state that was loaded may have another."""
        parts = sorted(self._parts.items())
        return SavePlan([_write_item(name, part, chunk) for name, part in parts for chunk in part.chunks])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """That of the only rank that there is."""
        return create_default_global_save_plan(all_plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """As it is."""
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        """The values of a chunk."""
        chunks = self._parts[write_item.index.fqn].chunks
        return next(chunk.values for chunk in chunks if torch.Size(chunk.offsets) == write_item.index.offset)


class PartsLoadPlanner(LoadPlanner):
    """Plans to read what belongs into the chunks of this rank's parts, whoever has written it.

    The tensors of several parts may have been kept as one.
    """

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Take the parts, by the name that their tensors were kept under."""
        self._parts: Mapping[str, Sequence[Part]] = state_dict
        self._stored = metadata.state_dict_metadata if metadata else {}

    def create_local_plan(self) -> LoadPlan:
        """One item for each box that a chunk has in common with one that was written.

        Raises:
            ValueError: a tensor has another shape, or not all of it was written.
        """
        return LoadPlan([item for name, parts in self._parts.items() for item in self._read_items(name, parts)])

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """That of the only rank that there is."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Refuse what is no tensor: torch would run code to read it."""
        raise ValueError(f"{read_item.dest_index.fqn} is no tensor")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """The memory that belongs to an item."""
        values = _chunks(self._parts[read_item.dest_index.fqn])[read_item.dest_index.index or 0].values
        for dimension, (offset, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            values = values.narrow(dimension, offset, length)
        return values

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """It is where it belongs already."""

    def _read_items(self, name: str, parts: Sequence[Part]) -> list[ReadItem]:
        stored = self._stored[name]
        if not isinstance(stored, TensorStorageMetadata) or any(part.shape != stored.size for part in parts):
            raise ValueError(f"{name} has another shape in the checkpoint")
        chunks = _chunks(parts)
        items = create_read_items_for_chunk_list(name, stored, [_place(chunk) for chunk in chunks])
        read = [0] * len(chunks)
        for item in items:
            read[item.dest_index.index or 0] += prod(item.lengths)
        if read != [chunk.values.numel() for chunk in chunks]:
            raise ValueError(f"the checkpoint has not all of {name}")
        return items


def _chunks(parts: Sequence[Part]) -> list[Chunk]:
    return [chunk for part in parts for chunk in part.chunks]


def _place(chunk: Chunk) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(chunk.offsets), chunk.values.shape)


def _write_item(name: str, part: Part, chunk: Chunk) -> WriteItem:
    data = TensorWriteData(_place(chunk), TensorProperties(chunk.values.dtype), part.shape)
    return WriteItem(MetadataIndex(name, chunk.offsets), WriteItemType.SHARD, tensor_data=data)
