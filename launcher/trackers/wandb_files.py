"""How far W&B's own files go: `run-*.wandb`, records of W&B's protobuf in the framing of LevelDB's log.

W&B offers nothing to read them with but an upload.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

_FILE_HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
_CHUNK_HEADER = struct.Struct("<IHB")  # checksum, length, kind
_BLOCK = 32768
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def last_step(folder: Path, wandb_id: str) -> int:
    """The highest step of a W&B run in all of its files, whole rows only; 0 where there is none.

    Args:
        folder: the `wandb` folder of a run directory.
        wandb_id: of the run.
    """
    return max((step for path in folder.glob(f"*run-*/run-{wandb_id}.wandb") for step in _steps(path)), default=0)


def _steps(path: Path) -> Iterator[int]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it has no annotations
    from wandb.proto.wandb_internal_pb2 import Record

    with suppress(OSError, DecodeError), path.open("rb") as file:
        for content in _records(file):
            record = Record.FromString(content)
            if record.WhichOneof("record_type") == "history":
                yield _step_of(record.history)


def _step_of(history: Any) -> int:
    for item in history.item:
        if "_step" in (item.key, *item.nested_key):
            return int(json.loads(item.value_json))
    return int(history.step.num)


def _records(file: BinaryIO) -> Iterator[bytes]:
    """The records up to the first that is not whole: behind that one W&B reads no further either."""
    if file.read(len(_FILE_HEADER)) != _FILE_HEADER:
        return
    whole = b""
    for kind, chunk in _chunks(file):
        whole = chunk if kind in (_FULL, _FIRST) else whole + chunk
        if kind in (_FULL, _LAST):
            yield whole


def _chunks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    position = len(_FILE_HEADER)
    while True:
        left = _BLOCK - position % _BLOCK
        if left < _CHUNK_HEADER.size:  # no header fits into the rest of the block
            file.read(left)
            position += left
        header = file.read(_CHUNK_HEADER.size)
        if len(header) < _CHUNK_HEADER.size:
            return
        checksum, length, kind = _CHUNK_HEADER.unpack(header)
        chunk = file.read(length)
        if len(chunk) < length or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            return
        if zlib.crc32(bytes([kind]) + chunk) != checksum:
            return
        yield kind, chunk
        position += len(header) + length
