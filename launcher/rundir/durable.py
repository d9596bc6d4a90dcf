"""Files that are on the disk when they are said to be."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from launcher.rundir.manifest import FileFacts

_CHUNK = 2**22  # bytes
_BEHIND = 16  # chunks that the checksum may be behind the file: what waits for it is kept in memory


def write_durably(
    path: Path, content: Iterable[bytes | memoryview], moved: Callable[[], None] = lambda: None
) -> FileFacts:
    """Write a new file and wait until it is on the disk.

    The checksum is that of the content in memory, not of what the system says it has written. It takes about as long
    as the writing, and is computed beside it.

    Args:
        path: the file, which must not be there.
        content: its bytes, in pieces of any size.
        moved: called whenever some of them are written, or all are on the disk.

    Returns:
        Its size and checksum.

    Raises:
        OSError: it cannot be written.
    """
    digest, size = hashlib.sha256(), 0
    hashing: deque[Future[None]] = deque()
    with ThreadPoolExecutor(max_workers=1) as beside, path.open("xb", buffering=0) as file:
        for piece in content:
            for chunk in _chunks(memoryview(piece).cast("B")):
                hashing.append(beside.submit(digest.update, chunk))
                _write_all(file.fileno(), chunk)
                size += len(chunk)
                moved()
                if len(hashing) > _BEHIND:
                    hashing.popleft().result()
        os.fsync(file.fileno())
    moved()
    return FileFacts(size, digest.hexdigest())


def sync_file(path: Path) -> None:
    """Wait until what was written to a file, by whom it may be, is on the disk; one that is not there has nothing.

    Raises:
        OSError: it cannot be brought there.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _chunks(piece: memoryview) -> Iterable[memoryview]:
    return (piece[start : start + _CHUNK] for start in range(0, len(piece), _CHUNK))


def _write_all(descriptor: int, chunk: memoryview) -> None:
    """A disk that is nearly full may take a part of it, and say why it takes no more when it is asked again."""
    while chunk:
        chunk = chunk[os.write(descriptor, chunk) :]
