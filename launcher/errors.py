"""Errors that a user may see, each kind with the exit code that scripts rely on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    REQUEST = 2
    WORKER = 3
    NOT_EQUIVALENT = 3
    NO_CHECKPOINT = 65
    RUN_HELD = 73
    REQUEUE = 75
    INTERRUPTED = 130


class LauncherError(Exception):
    """Anything that ends a command with a sentence for its user instead of a traceback."""

    exit_code: ExitCode = ExitCode.WORKER


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with a request.

    Attributes:
        key: dotted recipe key, or the flag, that is wrong; empty when it is the file as a whole.
        wrong: what is wrong, as a clause without a final stop.
        cure: what to do about it, as a sentence without a final stop.
        where: `file:line` or `command line`; empty while it is not known.
    """

    key: str
    wrong: str
    cure: str = ""
    where: str = ""

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.where, self.key) if part)
        sentence = f"{place}: {self.wrong}" if place else self.wrong
        return _on_one_line(" ".join(_stopped(part) for part in (sentence, self.cure) if part))


class RequestError(LauncherError):
    """The recipe, the plan or a flag is wrong; nothing was started.

    Args:
        mistakes: every mistake that was found, in the order of the file.
    """

    exit_code = ExitCode.REQUEST

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))

    def located(self, marks: dict[str, str]) -> RequestError:
        """The same error, with each mistake that has no place yet given that of its key or nearest parent."""
        return RequestError(
            mistake if mistake.where else replace(mistake, where=nearest_mark(marks, mistake.key))
            for mistake in self.mistakes
        )


class PerhapsTakenError(LauncherError):
    """An engine has taken a job, or may have, and what it calls it is not on record: nothing of it is withdrawn."""


class RunDirectoryHeldError(LauncherError):
    """Another launch is writing to the run directory."""

    exit_code = ExitCode.RUN_HELD


class RunDirectoryUnusableError(LauncherError):
    """The run directory cannot be made, or holds a run already."""

    exit_code = ExitCode.REQUEST


def _stopped(sentence: str) -> str:
    return sentence if sentence.endswith(("?", ".")) else sentence + "."


def _on_one_line(text: str) -> str:
    """Names of files and keys come from elsewhere: what would move the cursor is shown as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def quoted(text: str) -> str:
    """Text in quotes, shortened where it is long."""
    whole = repr(text)
    return whole if len(whole) <= 60 else whole[:57] + "..."


def nearest_mark(marks: dict[str, str], key: str) -> str:
    """The place of `key` in `marks`, or of its nearest parent that has one; empty if none has."""
    while key and key not in marks:
        key = key.rpartition(".")[0]
    return marks.get(key, "")
