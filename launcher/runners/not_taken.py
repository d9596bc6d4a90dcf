"""A job that no engine takes leaves everything as it was before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.errors import LauncherError, PerhapsTakenError
from launcher.rundir.layout import write_atomically


@contextmanager
def as_before_unless_taken(files: Iterable[Path], folders: Iterable[Path]) -> Iterator[None]:
    """Where a job is not taken, give its files the texts back that an earlier job had, and remove the others.

    What may have been taken stays: it may begin any time.

    Args:
        files: that the job has or will have.
        folders: that go too where they are empty, the innermost first.
    """
    before = {path: path.read_text(encoding="utf-8") if path.is_file() else None for path in files}
    try:
        yield
    except PerhapsTakenError:
        raise
    except LauncherError:
        with suppress(OSError):
            for path, text in before.items():
                if text is None:
                    path.unlink(missing_ok=True)
                else:
                    write_atomically(path, text, lasting=True)
        for folder in dict.fromkeys((*(path.parent for path in before), *folders)):
            with suppress(OSError):  # it holds something, and stays
                folder.rmdir()
        raise
