"""A job that no engine takes leaves everything as it was before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.errors import PerhapsTakenError
from launcher.rundir.layout import write_atomically


class FilesBefore:
    """What files held before a job wrote them."""

    def __init__(self) -> None:
        self._texts: dict[Path, str | None] = {}

    def remember(self, files: Iterable[Path]) -> None:
        """Keep what files hold now, which the job has or will have."""
        for path in files:
            self._texts[path] = path.read_text(encoding="utf-8") if path.is_file() else None

    def restore(self) -> set[Path]:
        """Give the files that an earlier job had their texts back, and remove the others; the folders of them all."""
        for path, text in self._texts.items():
            with suppress(OSError):
                if text is None:
                    path.unlink(missing_ok=True)
                else:
                    write_atomically(path, text, lasting=True)
        return {path.parent for path in self._texts}


@contextmanager
def as_before_unless_taken(folders: Iterable[Path], taken: Callable[[], bool] = lambda: False) -> Iterator[FilesBefore]:
    """Where a job is not taken, or somebody does not want to wait for that, leave files and folders as before.

    What may have been taken stays: it may begin any time.

    Args:
        folders: that go too where they are empty, the innermost first.
        taken: whether the engine may have the job, as far as is on record.
    """
    before = FilesBefore()
    try:
        yield before
    except PerhapsTakenError:
        raise
    except BaseException:
        if not taken():
            for folder in (*before.restore(), *folders):
                with suppress(OSError):  # it holds something, and stays
                    folder.rmdir()
        raise
