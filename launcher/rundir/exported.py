"""The model of a checkpoint as one file under all of its names, whoever loads it: a tied weight is there twice.

The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from launcher.rundir.durable import sync_folder, write_durably
from launcher.rundir.manifest import MANIFEST, BadCheckpointError, Manifest
from launcher.rundir.stored_tensors import METADATA, StoredChunk, refuse_gaps, stored_chunks, tensor_files

_MODEL, _TRAINING = "model", "training.json"
_ABOUT = {"format": "pt"}  # that it is torch's: some who load it ask
_ALIGNED = 8  # bytes
_READ = 2**22  # bytes


def export_model(folder: Path, target: Path) -> None:
    """Write the model of a checkpoint, which is verified once more as it is copied.

    Args:
        folder: the checkpoint, whose ranks may have written a part of each tensor each.
        target: the file to write or to replace.

    Raises:
        BadCheckpointError: the bytes that were read are not those that were written.
        OSError: it cannot be written.
    """
    same: dict[str, str] = json.loads((folder / _TRAINING).read_bytes())["model"]["same"]
    manifest = Manifest.from_text((folder / MANIFEST).read_bytes())
    tensors: dict[str, list[StoredChunk]] = {}
    digests: dict[StoredChunk, bytes] = {}
    for file in tensor_files(folder, _MODEL):
        chunks = sorted(stored_chunks([file]), key=lambda chunk: (chunk.begin, chunk.end))
        digests |= zip(chunks, _digests(file, chunks, manifest.files[file.name].sha256), strict=True)
        for chunk in chunks:
            tensors.setdefault(chunk.tensor, []).append(chunk)
    refuse_gaps(digests, {name: chunks[0].shape for name, chunks in tensors.items()})
    unfinished = target.with_name(f".{target.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        write_durably(unfinished, _under_all_names(tensors, same, digests))
        unfinished.replace(target)
        sync_folder(target.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _digests(file: Path, chunks: Sequence[StoredChunk], expected: str) -> Iterator[bytes]:
    """The checksum of each chunk of a file whose own is as it should be; they lie one behind the other."""
    whole = hashlib.sha256()
    with file.open("rb") as source:
        begin = chunks[0].begin if chunks else file.stat().st_size
        whole.update(source.read(begin))
        for chunk in chunks:
            own, left = hashlib.sha256(), chunk.end - chunk.begin
            while left and (read := source.read(min(left, _READ))):
                left -= len(read)
                for digest in (whole, own):
                    digest.update(read)
            yield own.digest()
    if whole.hexdigest() != expected:
        raise BadCheckpointError(f"{file.name} is damaged: its checksum is another")


def _under_all_names(
    tensors: Mapping[str, list[StoredChunk]], same: Mapping[str, str], digests: Mapping[StoredChunk, bytes]
) -> Iterator[bytes | memoryview]:
    """The pieces of the file. In this format no two names may share bytes: those of an alias come once more."""
    ordered = sorted(tensors, key=lambda name: (-_item_bytes(tensors[name]), name))
    names = {name: [name, *(alias for alias, kept in same.items() if kept == name)] for name in ordered}
    yield _head(tensors, ordered, names)
    for name in ordered:
        whole = _put_together(tensors[name], digests)
        for _ in names[name]:
            yield whole


def _head(tensors: Mapping[str, list[StoredChunk]], ordered: Sequence[str], names: Mapping[str, list[str]]) -> bytes:
    entries: dict[str, object] = {METADATA: _ABOUT}
    end = 0
    for name in ordered:
        first = tensors[name][0]
        for written in names[name]:
            start, end = end, end + prod(first.shape) * _item_bytes(tensors[name])
            entries[written] = {"dtype": first.dtype, "shape": first.shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def _put_together(chunks: Sequence[StoredChunk], digests: Mapping[StoredChunk, bytes]) -> memoryview:
    """The bytes of a tensor."""
    shape, item = chunks[0].shape, _item_bytes(chunks)
    whole = np.empty((*shape, item), dtype=np.uint8)
    for chunk in chunks:
        with chunk.file.open("rb") as source:
            source.seek(chunk.begin)
            read = source.read(chunk.end - chunk.begin)
        if hashlib.sha256(read).digest() != digests[chunk]:
            raise BadCheckpointError(f"{chunk.tensor} has changed while it was read")
        box = tuple(slice(at, at + length) for at, length in zip(chunk.offsets, chunk.sizes, strict=True))
        whole[box] = np.frombuffer(read, dtype=np.uint8).reshape(*chunk.sizes, item)
    return whole.reshape(-1).data


def _item_bytes(chunks: Sequence[StoredChunk]) -> int:
    """The size of one element; of a tensor that has none it does not matter."""
    first = chunks[0]
    return (first.end - first.begin) // max(prod(first.sizes), 1)
