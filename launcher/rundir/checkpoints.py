"""The checkpoints of a run: whole or not there, verified before they are used, pruned only when newer ones are."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from launcher.errors import ExitCode, LauncherError, RunDirectoryUnusableError
from launcher.rundir.durable import sync_folder, write_durably
from launcher.rundir.generation import Generation
from launcher.rundir.layout import RunDirectory
from launcher.rundir.manifest import (
    MANIFEST,
    BadCheckpointError,
    FileFacts,
    Manifest,
    UnreadableCheckpointError,
    verified,
)

LEAST_KEPT = 2  # a checkpoint that proves bad when it is needed has one before it
_STEP = re.compile(r"step_(\d{8,})")
_UNFINISHED, _BAD, _OLD = ".unfinished_", "bad_", ".old_"
_ASIDE = re.compile(rf"{_BAD}{_STEP.pattern}\.\d+")

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


@dataclass(frozen=True)
class _Verdict:
    """What is wrong with a checkpoint.

    Attributes:
        reason: as a clause.
        passing: whether it may be good still: it could not be read.
    """

    reason: str
    passing: bool = False


class Checkpoints:
    """The checkpoints of one run, as one writer sees them.

    Args:
        run: the directory of the run.
        say: takes a sentence that the user should read.
        generation: of the writer; by default the last.
    """

    def __init__(self, run: RunDirectory, say: Say, generation: Generation | None = None) -> None:
        self._folder = run.checkpoints
        self._generation = generation or Generation(run)
        self._say = say
        self._good: set[Path] = set()

    def begin(self, update: int) -> Path:
        """An empty folder for the files of a checkpoint, which is none until it is committed.

        Raises:
            OSError: it cannot be made.
            StaleWriterError: a later launch has taken the run over.
        """
        self._generation.check()
        self._folder.mkdir(exist_ok=True)
        for leftover in self._matching(_UNFINISHED, _OLD):
            if _generation_of(leftover) <= self._generation.own:  # a later launch may be writing the others
                shutil.rmtree(leftover, ignore_errors=True)
        unfinished = self._folder / f"{_UNFINISHED}{_name(update)}.{self._generation.own}"
        unfinished.mkdir()
        return unfinished

    def commit(
        self, unfinished: Path, update: int, files: Mapping[str, FileFacts], marks: Mapping[str, str] | None = None
    ) -> Checkpoint:
        """Make a checkpoint of a folder whose files are all on the disk.

        Args:
            unfinished: what `begin` returned.
            update: updates made.
            files: name → facts of each file, from those who wrote them.
            marks: ids of the run.

        Raises:
            OSError: it cannot be written.
            StaleWriterError: a later launch has taken the run over.
        """
        manifest = Manifest(update, self._generation.own, files, marks or {})
        write_durably(unfinished / MANIFEST, [manifest.to_text().encode()])
        sync_folder(unfinished)
        final = self._folder / _name(update)
        if final.exists():
            if self._holds(final, manifest):  # the same updates were made again, bit for bit
                self.abandon(unfinished)
                return Checkpoint(final, update)
            self._generation.check()
            self._set_aside(final)
        self._generation.check()  # last of all: to verify a checkpoint takes a while
        unfinished.rename(final)
        sync_folder(self._folder)
        self._good.add(final)
        return Checkpoint(final, update)

    def abandon(self, unfinished: Path) -> None:
        """Remove what could not be committed, as far as that can be done."""
        shutil.rmtree(unfinished, ignore_errors=True)

    def newest(self, up_to: int | None = None) -> Checkpoint | None:
        """The newest checkpoint that is as it was written, for a launch that holds the run.

        Newer ones that are not are set aside and named. What the system does not let read now is named and left as it
        is. Where none is left, one that was set aside and is good after all is taken back.

        Args:
            up_to: the update of the newest that may be used; None for any.

        Returns:
            The checkpoint, or None if there was never one.

        Raises:
            NoCheckpointError: there were some, and none can be used, or read now.
        """
        return self._found(changing=True, up_to=up_to)

    def look(self) -> Checkpoint | None:
        """As `newest`, but nothing is renamed: for who does not hold the run.

        Raises:
            NoCheckpointError: there were some, and none can be used, or read now.
        """
        return self._found(changing=False, up_to=None)

    def _found(self, *, changing: bool, up_to: int | None) -> Checkpoint | None:
        bad: list[_Verdict] = []
        try:
            folders, asides = (
                [folder for folder in found if up_to is None or _update_of(folder) <= up_to]
                for found in (self._all(), self._asides())
            )
        except OSError as error:
            raise NoCheckpointError(f"{self._folder} cannot be read now: {error.strerror}. Try again.") from None
        for folder in folders:
            verdict = self._verdict(folder)
            if verdict is None:
                return Checkpoint(folder, _update_of(folder))
            bad.append(verdict)
            self._say(f"warning: {folder.name} cannot be used: {verdict.reason}")
            if changing and not verdict.passing:
                self._set_aside(folder)
        for folder in asides:
            verdict = self._verdict(folder)
            if verdict is None:
                taken = self._taken_back(folder) if changing else folder
                self._say(f"{folder.name} is good after all, and is used")
                return Checkpoint(taken, _update_of(folder))
            bad.append(verdict)
        if any(verdict.passing for verdict in bad):
            raise NoCheckpointError(
                f"No checkpoint in {self._folder} can be used now: some could not be read, and may be good. Try again "
                "when the disk is well."
            )
        if bad:
            raise NoCheckpointError(
                f"No checkpoint in {self._folder} can be used. Restore one from a copy, or begin again from the start "
                "with another --run-id."
            )
        return None

    def leave_behind(self, checkpoint: Checkpoint) -> None:
        """Set aside what is newer than the checkpoint that the run goes on with.

        It could not be read for a while, say: the updates are made again, perhaps on other ranks or with another
        recipe, and a checkpoint of later ones that was made before is then none of theirs.
        """
        for folder in self._all():
            if _update_of(folder) > checkpoint.update:
                self._set_aside(folder)

    def prune(self, keep: int) -> None:
        """Delete old checkpoints, as soon as so many newer ones are good; what cannot be deleted is said, and stays.

        Args:
            keep: how many to keep, at least two.
        """
        try:
            self._prune(keep)
        except OSError as error:  # the new one is written: nothing is lost
            self._say(f"warning: old checkpoints could not be removed: {error.strerror}")

    def _prune(self, keep: int) -> None:
        good = 0
        for folder in self._all():
            if good >= max(keep, LEAST_KEPT):
                self._remove(folder)
            elif self._verdict(folder) is None:
                good += 1

    def _verdict(self, folder: Path) -> _Verdict | None:
        """What is wrong with a checkpoint, or None; one that was found good once is not read again."""
        if folder in self._good:
            return None
        try:
            manifest = verified(folder)
        except UnreadableCheckpointError as unreadable:
            return _Verdict(str(unreadable), passing=True)
        except BadCheckpointError as bad:
            return _Verdict(str(bad))
        if manifest.update != _update_of(folder):
            return _Verdict(f"it was written after update {manifest.update}")
        self._good.add(folder)
        return None

    def _holds(self, folder: Path, manifest: Manifest) -> bool:
        """Whether a good checkpoint is the one of a manifest, but for who has written it."""
        if self._verdict(folder) is not None:
            return False
        try:
            found = Manifest.from_text((folder / MANIFEST).read_bytes())
        except (OSError, BadCheckpointError):
            return False
        return replace(found, generation=manifest.generation) == manifest

    def _all(self) -> list[Path]:
        """Folders that look like checkpoints, the newest first."""
        named = [folder for folder in self._entries() if _STEP.fullmatch(folder.name)]
        return sorted(named, key=_update_of, reverse=True)

    def _asides(self) -> list[Path]:
        """Folders of checkpoints that were set aside, the newest first."""
        named = [folder for folder in self._entries() if _ASIDE.fullmatch(folder.name)]
        return sorted(named, key=lambda folder: (_update_of(folder), folder.name), reverse=True)

    def _matching(self, *prefixes: str) -> Iterator[Path]:
        return (folder for folder in self._entries() if folder.name.startswith(prefixes))

    def _entries(self) -> list[Path]:
        try:
            return list(self._folder.iterdir())
        except FileNotFoundError:
            return []

    def _set_aside(self, folder: Path) -> None:
        self._good.discard(folder)
        asides = (folder.with_name(f"{_BAD}{folder.name}.{number}") for number in count(1))
        with suppress(OSError):  # where nothing can be written it stays, and is passed over again
            folder.rename(next(aside for aside in asides if not aside.exists()))

    def _taken_back(self, aside: Path) -> Path:
        """Its folder from now on: where its own name is free, and can be given."""
        folder = aside.with_name(_name(_update_of(aside)))
        if folder.exists():
            return aside
        try:
            aside.rename(folder)
        except OSError:
            return aside
        self._good.add(folder)
        return folder

    def _remove(self, folder: Path) -> None:
        """Rename first: a checkpoint is deleted at once or not at all."""
        self._good.discard(folder)
        old = folder.with_name(f"{_OLD}{folder.name}")
        with suppress(OSError):
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
            shutil.rmtree(old, ignore_errors=True)


def has_any(run: RunDirectory) -> bool:
    """Whether a run has left checkpoints, good or bad, whole or begun.

    Raises:
        RunDirectoryUnusableError: that cannot be seen now.
    """
    try:
        return any(run.checkpoints.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise RunDirectoryUnusableError(f"{run.checkpoints} cannot be read now: {error.strerror}.") from None


def newest_update(run: RunDirectory) -> int:
    """The update of the newest checkpoint that was committed, as far as its name tells; 0 where there is none."""
    return max(
        (_update_of(folder) for folder in run.checkpoints.glob("step_*") if _STEP.fullmatch(folder.name)), default=0
    )


def _name(update: int) -> str:
    return f"step_{update:08d}"


def _generation_of(leftover: Path) -> int:
    """Of the launch that left an unfinished checkpoint; 0 for what has no number."""
    _, _, number = leftover.name.partition(".unfinished_")[2].partition(".")
    return int(number) if number.isdecimal() else 0


def _update_of(folder: Path) -> int:
    found = _STEP.search(folder.name)
    return int(found[1]) if found else 0
