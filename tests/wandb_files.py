"""Reading back what W&B wrote offline: `run-*.wandb`, records of wandb's protobuf in the framing of LevelDB's log."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE_HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
CHUNK_HEADER = struct.Struct("<IHB")  # checksum, length, kind
BLOCK = 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class LoggedRun:
    """A run as W&B has it, on its server or in a file.

    Attributes:
        x_axes: metric, or pattern of metrics → the metric that it is drawn over.
        exit_code: None while the run goes on.
    """

    id: str
    project: str
    name: str = ""
    entity: str = ""
    group: str = ""
    sweep: str = ""
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    x_axes: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None

    def rows(self) -> list[dict[str, Any]]:
        """The history without what W&B adds of its own, such as `_step`."""
        return [{key: row[key] for key in row if not key.startswith("_")} for row in self.history]


def read_offline_run(run_dir: Path) -> LoggedRun:
    """The only offline run of a run directory.

    Raises:
        ValueError: there is none, there are several, or its file is damaged.
    """
    (run,) = read_offline_runs(run_dir)
    return run


def read_offline_runs(run_dir: Path) -> list[LoggedRun]:
    """Every offline run of a run directory, one for each launch, in their order.

    Raises:
        ValueError: a file is damaged.
    """
    runs = []
    for path in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb")):
        run = LoggedRun(id="", project="")
        for record in _records(path.read_bytes()):
            _take(run, record)
        runs.append(run)
    return runs


def _take(run: LoggedRun, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    content = getattr(record, kind)
    if kind == "run":
        run.id, run.project, run.name = content.run_id, content.project, content.display_name
        run.entity, run.group, run.tags = content.entity, content.run_group, tuple(content.tags)
        run.config |= _items(content.config.update)
    elif kind == "config":
        run.config |= _items(content.update)
    elif kind == "history":
        run.history.append(_items(content.item))
    elif kind == "summary":
        run.summary |= _items(content.update)
    elif kind == "metric":
        run.x_axes[content.name or content.glob_name] = content.step_metric
    elif kind == "exit":
        run.exit_code = content.exit_code


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(content: bytes) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    if not content.startswith(FILE_HEADER):
        raise ValueError("not a .wandb file")
    whole = b""
    for kind, chunk in _chunks(content):
        whole = chunk if kind in (FULL, FIRST) else whole + chunk
        if kind in (FULL, LAST):
            yield wandb_internal_pb2.Record.FromString(whole)


def _chunks(content: bytes) -> Iterator[tuple[int, bytes]]:
    position = len(FILE_HEADER)
    while position + CHUNK_HEADER.size <= len(content):
        left = BLOCK - position % BLOCK
        if left < CHUNK_HEADER.size:  # no header fits into the rest of the block
            position += left
            continue
        checksum, length, kind = CHUNK_HEADER.unpack_from(content, position)
        chunk = content[position + CHUNK_HEADER.size : position + CHUNK_HEADER.size + length]
        if zlib.crc32(bytes([kind]) + chunk) != checksum:
            raise ValueError(f"a damaged record at byte {position}")
        yield kind, chunk
        position += CHUNK_HEADER.size + length
