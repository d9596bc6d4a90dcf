"""The model of a checkpoint as one file under all of its names, whoever loads it: a tied weight is there twice.

The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from launcher.rundir.durable import sync_folder, write_durably
from launcher.rundir.manifest import MANIFEST, BadCheckpointError, Manifest

_MODEL, _TRAINING, _METADATA = "model.safetensors", "training.json", "__metadata__"
_ALIGNED = 8  # bytes
_CHUNK = 2**22  # bytes


def export_model(folder: Path, target: Path) -> None:
    """Write the model of a checkpoint, which is verified once more as it is copied.

    Args:
        folder: the checkpoint.
        target: the file to write or to replace.

    Raises:
        BadCheckpointError: the bytes that were read are not those that were written.
        OSError: it cannot be written.
    """
    same: dict[str, str] = json.loads((folder / _TRAINING).read_bytes())["model"]["same"]
    expected = Manifest.from_text((folder / MANIFEST).read_bytes()).files[_MODEL].sha256
    unfinished = target.with_name(f".{target.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        with (folder / _MODEL).open("rb") as source:
            write_durably(unfinished, _under_all_names(source, same, expected))
        unfinished.replace(target)
        sync_folder(target.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _under_all_names(source: BinaryIO, same: Mapping[str, str], expected: str) -> Iterator[bytes]:
    """The pieces of the file. In this format no two names may share bytes: those of an alias come once more."""
    length = source.read(8)
    text = source.read(int.from_bytes(length, "little"))
    whole = hashlib.sha256(length + text)
    entries = json.loads(text)
    metadata = entries.pop(_METADATA, None)
    ordered = sorted(entries.items(), key=lambda entry: (entry[1]["data_offsets"], entry[0]))
    names = {name: [name, *(alias for alias, kept in same.items() if kept == name)] for name in entries}
    yield _head(ordered, names, metadata)
    begin = source.tell()
    for name, entry in ordered:
        digests = set()
        for written in names[name]:
            digest = hashlib.sha256()
            for chunk in _bytes_of(source, begin, entry["data_offsets"]):
                digest.update(chunk)
                if written == name:
                    whole.update(chunk)
                yield chunk
            digests.add(digest.digest())
        if len(digests) > 1:
            raise BadCheckpointError(f"{name} has changed while it was read")
    if whole.hexdigest() != expected:
        raise BadCheckpointError(f"{_MODEL} is damaged: its checksum is another")


def _head(ordered: list[tuple[str, Any]], names: Mapping[str, list[str]], metadata: Any) -> bytes:
    entries = {} if metadata is None else {_METADATA: metadata}
    end = 0
    for name, entry in ordered:
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        for written in names[name]:
            start, end = end, end + size
            entries[written] = {**entry, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(source: BinaryIO, begin: int, offsets: list[int]) -> Iterator[bytes]:
    source.seek(begin + offsets[0])
    left = offsets[1] - offsets[0]
    while left:
        chunk = source.read(min(left, _CHUNK))
        if not chunk:
            raise BadCheckpointError(f"{_MODEL} has too few bytes")
        left -= len(chunk)
        yield chunk
