"""What a checkpoint is made of: the size and SHA-256 of every file, and of the list itself.

No format of tensors notices a flipped bit when it is loaded; this does.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

MANIFEST = "MANIFEST.json"
_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CHUNK = 2**20
_MOST_BYTES = 2**24  # of a manifest
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENXIO}  # what tells of the files; all else tells of the system


class BadCheckpointError(Exception):
    """A checkpoint that cannot be trusted; the message says what is wrong with it, as a clause."""


class UnreadableCheckpointError(BadCheckpointError):
    """A checkpoint that the system does not let read now, of which nothing else is known: it may be whole."""


@dataclass(frozen=True)
class FileFacts:
    """A file of a checkpoint.

    Attributes:
        bytes: its size.
        sha256: of its content, in hexadecimal digits.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The list of a checkpoint's files.

    Attributes:
        update: updates made when it was written.
        generation: number of the launch that wrote it.
        files: name → facts of each file.
        marks: ids of the run that wrote it, which is not part of what it has learned; none in older ones.
    """

    update: int
    generation: int
    files: Mapping[str, FileFacts]
    marks: Mapping[str, str] = field(default_factory=dict)

    def to_text(self) -> str:
        """The manifest as its file holds it, with a checksum of its own."""
        body = {
            "version": _VERSION,
            "update": self.update,
            "generation": self.generation,
            "marks": dict(self.marks),
            "files": {name: asdict(facts) for name, facts in sorted(self.files.items())},
        }
        return json.dumps({**body, "sha256": _digest_of(body)}, indent=1) + "\n"

    @staticmethod
    def from_text(text: bytes) -> Manifest:
        """Read a manifest.

        Raises:
            BadCheckpointError: it is not what was written.
        """
        try:
            body = json.loads(text)
            found = body.pop("sha256")
            if found != _digest_of(body):
                raise BadCheckpointError(f"{MANIFEST} is damaged")
            if body["version"] != _VERSION:
                raise BadCheckpointError(f"{MANIFEST} has version {body['version']}, and this launcher reads 1")
            files = {name: FileFacts(**facts) for name, facts in body["files"].items()}
            marks = {str(name): str(mark) for name, mark in body.get("marks", {}).items()}
            manifest = Manifest(int(body["update"]), int(body["generation"]), files, marks)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadCheckpointError(f"{MANIFEST} is damaged") from None
        for name in files:
            if not _NAME.fullmatch(name):
                raise BadCheckpointError(f"{MANIFEST} names {name!r}, which is no file of a checkpoint")
        return manifest


def facts_of(path: Path) -> FileFacts:
    """The size and checksum of a file.

    Raises:
        BadCheckpointError: it is no regular file.
        UnreadableCheckpointError: it cannot be read now.
    """
    digest, size = hashlib.sha256(), 0
    with _reading(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileFacts(size, digest.hexdigest())


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """A file that is one itself: a link could lead anywhere, and a pipe would keep its reader waiting."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadCheckpointError(f"{path.name} is no file")
            yield file
    except OSError as error:
        raise _cause(error, path.name) from None


def _cause(error: OSError, name: str) -> BadCheckpointError:
    if error.errno == errno.ELOOP:
        return BadCheckpointError(f"{name} cannot be read: it is a link")
    if error.errno in _NOT_THERE:
        return BadCheckpointError(f"{name} cannot be read: {error.strerror}")
    return UnreadableCheckpointError(f"{name} cannot be read now: {error.strerror}")


def verified(folder: Path) -> Manifest:
    """The manifest of a checkpoint whose files are, bit for bit, those that were written.

    Raises:
        BadCheckpointError: what is wrong with it.
        UnreadableCheckpointError: it cannot be read now.
    """
    with _reading(folder / MANIFEST) as file:
        manifest = Manifest.from_text(file.read(_MOST_BYTES))
    try:
        present = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise _cause(error, folder.name) from None
    expected = {*manifest.files, MANIFEST}
    if strangers := sorted(present - expected):
        raise BadCheckpointError(f"it holds {strangers[0]}, which {MANIFEST} does not name")
    if missing := sorted(expected - present):
        raise BadCheckpointError(f"{missing[0]} is missing")
    for name, facts in manifest.files.items():
        found = facts_of(folder / name)
        if found.bytes != facts.bytes:
            raise BadCheckpointError(f"{name} has {found.bytes:,} bytes instead of {facts.bytes:,}")
        if found != facts:
            raise BadCheckpointError(f"{name} is damaged: its checksum is another")
    return manifest


def _digest_of(body: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
