"""Standard output that may go away while a run goes on: a closed terminal, a reader of a pipe that has seen enough."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console


def lasting_console(*, soft_wrap: bool = False) -> Console:
    """A console on standard output that outlives its reader.

    Args:
        soft_wrap: leave long lines to the terminal, instead of breaking them at words.
    """
    # One that was closed before Python began is none; nowhere is written to for as long as the process lives.
    stream = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    return Console(file=cast(TextIO, LastingOutput(stream)), highlight=False, soft_wrap=soft_wrap)


class LastingOutput:
    """Writes to a stream for as long as it takes anything, and to nowhere from then on.

    A run that trains for weeks does not end because nobody looks any more.

    Args:
        stream: the stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> int:
        """Write, if it is possible."""
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flush, if it is possible."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream's descriptor."""
        return self._stream.fileno()

    def _give_up(self) -> None:
        """Let the descriptor lead nowhere: what the stream still holds can then be written, also as Python ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
