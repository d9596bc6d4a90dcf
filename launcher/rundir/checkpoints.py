"""The checkpoints of a run: whole or not there, verified before they are used, pruned only when newer ones are."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from launcher.errors import ExitCode, LauncherError
from launcher.rundir.durable import sync_folder, write_durably
from launcher.rundir.generation import Generation
from launcher.rundir.layout import RunDirectory
from launcher.rundir.manifest import MANIFEST, BadCheckpointError, FileFacts, Manifest, verified

LEAST_KEPT = 2  # a checkpoint that proves bad when it is needed has one before it
_STEP = re.compile(r"step_(\d{8,})")
_UNFINISHED, _BAD, _OLD = ".unfinished_", "bad_", ".old_"

Say = Callable[[str], None]


class NoCheckpointError(LauncherError):
    """There are checkpoints, and none of them can be used."""

    exit_code = ExitCode.NO_CHECKPOINT


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        folder: where its files are.
        update: updates made when it was written.
    """

    folder: Path
    update: int


class Checkpoints:
    """The checkpoints of one run, as one writer sees them.

    Args:
        run: the directory of the run.
        say: takes a sentence that the user should read.
    """

    def __init__(self, run: RunDirectory, say: Say) -> None:
        self._folder = run.checkpoints
        self._generation = Generation(run)
        self._say = say
        self._good: set[Path] = set()

    def begin(self, update: int) -> Path:
        """An empty folder for the files of a checkpoint, which is none until it is committed.

        Raises:
            OSError: it cannot be made.
        """
        self._folder.mkdir(exist_ok=True)
        for leftover in self._matching(_UNFINISHED, _OLD):
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished = self._folder / f"{_UNFINISHED}{_name(update)}.{self._generation.own}"
        unfinished.mkdir()
        return unfinished

    def commit(self, unfinished: Path, update: int, files: Mapping[str, FileFacts]) -> Checkpoint:
        """Make a checkpoint of a folder whose files are all on the disk.

        Args:
            unfinished: what `begin` returned.
            update: updates made.
            files: name → facts of each file, from those who wrote them.

        Raises:
            OSError: it cannot be written.
            StaleWriterError: a later launch has taken the run over.
        """
        manifest = Manifest(update, self._generation.own, files).to_text()
        write_durably(unfinished / MANIFEST, [manifest.encode()])
        sync_folder(unfinished)
        final = self._folder / _name(update)
        self._generation.check()
        if final.exists():
            if self._reason_against(final) is None:  # the same updates were made again: it is as good as this one
                self.abandon(unfinished)
                return Checkpoint(final, update)
            self._set_aside(final)
        unfinished.rename(final)
        sync_folder(self._folder)
        self._good.add(final)
        return Checkpoint(final, update)

    def abandon(self, unfinished: Path) -> None:
        """Remove what could not be committed, as far as that can be done."""
        shutil.rmtree(unfinished, ignore_errors=True)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is as it was written; newer ones that are not are set aside and named.

        Returns:
            The checkpoint, or None if there was never one.

        Raises:
            NoCheckpointError: there were some, and none can be used.
        """
        bad = 0
        for folder in self._all():
            reason = self._reason_against(folder)
            if reason is None:
                return Checkpoint(folder, _update_of(folder))
            bad += 1
            self._say(f"warning: {folder.name} cannot be used: {reason}")
            self._set_aside(folder)
        if bad or list(self._matching(_BAD)):
            raise NoCheckpointError(
                f"No checkpoint in {self._folder} can be used. Restore one from a copy, or begin again from the start "
                "with another --run-id."
            )
        return None

    def prune(self, keep: int) -> None:
        """Delete old checkpoints, as soon as so many newer ones are good.

        Args:
            keep: how many to keep, at least two.
        """
        good = 0
        for folder in self._all():
            if good >= max(keep, LEAST_KEPT):
                self._remove(folder)
            elif self._reason_against(folder) is None:
                good += 1

    def _reason_against(self, folder: Path) -> str | None:
        """What is wrong with a checkpoint, or None; one that was found good once is not read again."""
        if folder in self._good:
            return None
        try:
            manifest = verified(folder)
            if manifest.update != _update_of(folder):
                return f"it was written after update {manifest.update}"
        except BadCheckpointError as bad:
            return str(bad)
        self._good.add(folder)
        return None

    def _all(self) -> list[Path]:
        """Folders that look like checkpoints, the newest first."""
        named = [folder for folder in self._entries() if _STEP.fullmatch(folder.name)]
        return sorted(named, key=_update_of, reverse=True)

    def _matching(self, *prefixes: str) -> Iterator[Path]:
        return (folder for folder in self._entries() if folder.name.startswith(prefixes))

    def _entries(self) -> list[Path]:
        try:
            return list(self._folder.iterdir())
        except FileNotFoundError:
            return []

    def _set_aside(self, folder: Path) -> None:
        asides = (folder.with_name(f"{_BAD}{folder.name}.{number}") for number in count(1))
        with suppress(OSError):  # where nothing can be written it stays, and is passed over again
            folder.rename(next(aside for aside in asides if not aside.exists()))

    def _remove(self, folder: Path) -> None:
        """Rename first: a checkpoint is deleted at once or not at all."""
        self._good.discard(folder)
        old = folder.with_name(f"{_OLD}{folder.name}")
        with suppress(OSError):
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
            shutil.rmtree(old, ignore_errors=True)


def newest_update(run: RunDirectory) -> int:
    """The update of the newest checkpoint that was committed, as far as its name tells; 0 where there is none."""
    return max(
        (_update_of(folder) for folder in run.checkpoints.glob("step_*") if _STEP.fullmatch(folder.name)), default=0
    )


def _name(update: int) -> str:
    return f"step_{update:08d}"


def _update_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))
