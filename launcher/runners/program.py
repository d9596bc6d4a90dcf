"""The programs that engines are asked by: an answer that can be used, or that engine's error in one sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, TextIO, TypeVar, cast

from launcher.errors import ExitCode, LauncherError, quoted

_Answer = TypeVar("_Answer")


class ProgramError(LauncherError):
    """An engine is not there, or does not do what it was asked for.

    Attributes:
        printed: what its program had printed before it failed; None where it has not ended by itself.
    """

    exit_code = ExitCode.REQUEST
    printed: str | None = ""


@dataclass(frozen=True)
class Program:
    """A program, or several of one engine.

    Attributes:
        error: what is raised where it is not there, or does not do what it was asked for.
        missing: the sentence for a program that is not installed; {name} is the program.
        words: how many words of a command say what it does.
        patience: seconds that a command may take which waits for nothing.
        silence: what may be the matter where it does not answer.
        complaint: why it refuses, out of the lines of its standard error.
    """

    error: type[ProgramError]
    missing: str
    words: int = 2
    patience: float = 120.0
    silence: str = ""
    complaint: Callable[[list[str]], str] = "; ".join

    def call(self, command: Sequence[str], patience: float | None = 0) -> str:
        """What a command prints.

        Args:
            command: the command.
            patience: seconds that it may take; None for a command that waits for something, 0 for as ever.

        Raises:
            ProgramError: of this engine: it is not installed, fails, or does not end.
        """
        seconds = self.patience if patience == 0 else patience
        with self.startable(command):
            try:
                done = subprocess.run(
                    [program_of(command), *command[1:]],
                    capture_output=True,
                    check=False,
                    timeout=seconds,
                    stdin=subprocess.DEVNULL,
                )
            except subprocess.TimeoutExpired:
                doubt = f" {self.silence}" if self.silence else ""
                error = self.error(f"{self.name(command)} has not answered for {seconds:g} seconds.{doubt}")
                error.printed = None
                raise error from None
        said = done.stdout.decode(errors="replace")
        if done.returncode:
            complaints = done.stderr.decode(errors="replace")
            printed = complaints if complaints.strip() else said  # where a site's own checks may say why
            lines = [line.strip() for line in printed.splitlines() if line.strip()]
            why = self.complaint(lines).rstrip(".?") if lines else ""
            error = self.error(f"{self.name(command)} refuses: {why or f'exit code {done.returncode}'}.")
            error.printed = said
            raise error
        return said

    def ask(self, command: Sequence[str], read: Callable[[str], _Answer], patience: float | None = 0) -> _Answer:
        """What a command's answer means.

        Args:
            command: the command.
            read: makes that of the answer; an error of its own says that the answer is none.
            patience: as for `call`.

        Raises:
            ProgramError: of this engine: there is no answer, or one that cannot be read.
        """
        return self.understood(command, self.call(command, patience), read)

    def understood(self, command: Sequence[str], said: str, read: Callable[[str], _Answer]) -> _Answer:
        """What an answer means that a command has given.

        Raises:
            ProgramError: of this engine: it cannot be read.
        """
        try:
            return read(said)
        except (ValueError, LookupError, TypeError, AttributeError):
            answer = quoted(said.strip()) if said.strip() else "nothing"
            raise self.error(f"{self.name(command)} has answered {answer}, which cannot be understood.") from None

    def lines(self, command: Sequence[str]) -> Iterator[str]:
        """The lines that a command prints, complaints among them, while it runs; it ends with whoever reads them.

        Raises:
            ProgramError: of this engine: it is not installed, or has failed.
        """
        with self.started(command, stderr=subprocess.STDOUT) as process:
            last = ""
            for last in text_of(process):
                yield last.rstrip("\r\n")
            if process.wait():
                raise self.error(f"{self.name(command)} has failed: {last.strip() or 'it says nothing'}")

    @contextmanager
    def started(
        self, command: Sequence[str], stderr: int | None = subprocess.DEVNULL
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A command that runs, for as long as the context; with None its complaints go where those of this one go."""
        with self.startable(command):
            process = subprocess.Popen(
                [program_of(command), *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
            )
        with process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def startable(self, command: Sequence[str]) -> Iterator[None]:
        """Says of a program that cannot be started what is the matter with it."""
        try:
            yield
        except FileNotFoundError:
            raise self.error(self.missing.format(name=command[0])) from None
        except OSError as error:
            cure = "See which one comes first in PATH"
            raise self.error(f"{command[0]} cannot be started: {error.strerror}. {cure}.") from None

    def name(self, command: Sequence[str]) -> str:
        """What a command is called in a sentence."""
        return " ".join(command[: self.words])


def text_of(process: subprocess.Popen[bytes]) -> TextIO:
    """What a process prints, as lines: what goes back to the beginning of one, as bars do, is no end of it."""
    return TextIOWrapper(cast(BinaryIO, process.stdout), errors="replace", encoding="utf-8", newline="\n")


def program_of(command: Sequence[str]) -> str:
    """The program of a command: that of this installation of Python where it has one."""
    beside = Path(sys.executable).with_name(command[0])
    return str(beside) if beside.exists() else command[0]
