"""What the tensor files of a checkpoint hold, told by their heads: whole tensors, or chunks that ranks have written.

The format is that of safetensors, whose head is JSON: https://github.com/huggingface/safetensors#format. A file of
chunks has a table in its metadata of which tensors they are chunks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from launcher.rundir.manifest import BadCheckpointError

CHUNKS = "chunks"  # in the metadata: key → name, offsets and shape, in JSON
METADATA = "__metadata__"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class StoredChunk:
    """A box of a tensor, or all of it, in a file.

    Attributes:
        file: the file.
        key: its name there.
        tensor: the name of the tensor.
        shape: of the tensor.
        offsets: of the box in the tensor.
        sizes: of the box.
        dtype: as safetensors calls it.
        begin: its first byte in the file.
        end: the one behind its last.
    """

    file: Path
    key: str
    tensor: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    dtype: str
    begin: int
    end: int


def whole_file(name: str) -> str:
    """The file of tensors that one rank has written whole."""
    return f"{name}{_SUFFIX}"


def rank_file(name: str, rank: int) -> str:
    """The file of the chunks that a rank has written."""
    return f"{name}_{rank:05d}{_SUFFIX}"


def tensor_files(folder: Path, name: str) -> list[Path]:
    """The file of whole tensors, or the files of chunks in the order of the ranks."""
    whole = folder / whole_file(name)
    return [whole] if whole.exists() else sorted(folder.glob(f"{name}_*{_SUFFIX}"))


def chunk_table(chunks: Mapping[str, tuple[str, Iterable[int], Iterable[int]]]) -> dict[str, str]:
    """The metadata of a file of chunks.

    Args:
        chunks: key → name, offsets and shape.
    """
    return {
        CHUNKS: json.dumps(
            {key: {"of": name, "at": list(at), "in": list(shape)} for key, (name, at, shape) in chunks.items()}
        )
    }


def stored_chunks(files: Iterable[Path]) -> Iterator[StoredChunk]:
    """Everything that files hold.

    Raises:
        BadCheckpointError: a file is not what was written.
    """
    for file in files:
        try:
            yield from _of_file(file)
        except (ValueError, KeyError, TypeError, AttributeError) as wrong:
            raise BadCheckpointError(f"{file.name} is damaged: {wrong}") from None


def refuse_gaps(chunks: Iterable[StoredChunk], shapes: Mapping[str, Iterable[int]]) -> None:
    """Make sure that all of every tensor is there, once.

    Raises:
        BadCheckpointError: some of it is missing, or is there twice.
    """
    found = dict.fromkeys(shapes, 0)
    for chunk in chunks:
        found[chunk.tensor] = found.get(chunk.tensor, 0) + prod(chunk.sizes)
    for name, elements in found.items():
        expected = prod(shapes[name]) if name in shapes else 0
        if elements != expected:
            raise BadCheckpointError(f"{name} has {elements:,} elements in it instead of {expected:,}")


def _of_file(file: Path) -> Iterator[StoredChunk]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        entries: dict[str, Any] = json.loads(opened.read(length))
    table = json.loads(entries.pop(METADATA, {}).get(CHUNKS, "{}"))
    for key, entry in entries.items():
        sizes = tuple(entry["shape"])
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        told: Any = table[key] if table else {"of": key, "at": (0,) * len(sizes), "in": sizes}
        yield StoredChunk(
            file, key, told["of"], tuple(told["in"]), tuple(told["at"]), sizes, entry["dtype"], begin, end
        )
