"""A job for an engine that takes jobs: the files that it needs, and the command that sends it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Submission:
    """What is submitted, and what a dry run prints: the same object.

    Attributes:
        argv: the command that submits it.
        files: files to write before, path → text.
    """

    argv: tuple[str, ...]
    files: Mapping[Path, str]

    def as_shell(self) -> str:
        """The submission as shell commands that do the same when pasted."""
        lines = [f"mkdir -p {shlex.join(sorted({str(path.parent) for path in self.files}))}"]
        for path, text in self.files.items():
            lines += [f"cat > {shlex.quote(str(path))} <<'END_OF_FILE'", text.rstrip("\n"), "END_OF_FILE"]
        return "\n".join([*lines, shlex.join(self.argv)])
