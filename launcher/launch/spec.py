"""What a runner executes, and what a dry run prints: the same object."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.rundir.layout import PASTED


@dataclass(frozen=True)
class LaunchSpec:
    """One launch on one machine.

    Attributes:
        argv: the command, program first.
        env: variables to add to the environment.
        files: files to write before the command starts, path → text.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[Path, str]

    def as_shell(self) -> str:
        """The launch as shell commands that do the same when pasted.

        The agent gives the files their names when it holds the run: another launch may be using those that are there.
        """
        folders = sorted({str(path.parent) for path in self.files})
        lines = [f"mkdir -p {shlex.join(folders)}"]
        for path, text in self.files.items():
            lines += [f"cat > {shlex.quote(str(path) + PASTED)} <<'END_OF_FILE'", text.rstrip("\n"), "END_OF_FILE"]
        env = [f"{name}={shlex.quote(value)}" for name, value in sorted(self.env.items())]
        lines.append(" \\\n  ".join([*env, shlex.join(self.argv)]))
        return "\n".join(lines)
