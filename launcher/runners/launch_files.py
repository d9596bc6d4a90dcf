"""The files of a launch or of a job, which its plan has worked out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launcher.rundir.layout import write_atomically


def write_files(files: Mapping[Path, str]) -> None:
    """Write each where it belongs, so that it is there whole when what reads it begins, and after a power failure.

    Args:
        files: texts by path; folders are made.

    Raises:
        OSError: one cannot be written.
    """
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text, lasting=True)
