"""What a fork that could not begin leaves of the run: all that it was begun with, as if there had been no fork."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.rundir.layout import RunDirectory, write_atomically


@contextmanager
def kept_unless_begun(run: RunDirectory, *, fork: bool) -> Iterator[None]:
    """Put back at the end what a run was begun with, if it was to be forked and no update of the fork was made.

    Args:
        run: the directory of the run, which is held.
        fork: whether it is to be forked; otherwise nothing is done.
    """
    if not fork:
        yield
        return
    begun = _Begun.of(run)
    try:
        yield
    finally:
        if not begun.has_grown(run):
            begun.put_back()


@dataclass(frozen=True)
class _Begun:
    files: Mapping[Path, str | None]
    rows: bytes

    @staticmethod
    def of(run: RunDirectory) -> _Begun:
        files = (run.plan, run.recipe, run.data, run.fitting, run.wandb_id, run.status)
        return _Begun({path: _text_of(path) for path in files}, _rows_of(run))

    def has_grown(self, run: RunDirectory) -> bool:
        """Whether there are rows that are not the first ones of those that were there."""
        return not self.rows.startswith(_rows_of(run))

    def put_back(self) -> None:
        for path, text in self.files.items():
            if text is None:
                path.unlink(missing_ok=True)
            else:
                write_atomically(path, text)


def _text_of(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _rows_of(run: RunDirectory) -> bytes:
    return run.metrics.read_bytes() if run.metrics.exists() else b""
