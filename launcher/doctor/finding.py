"""What an examination finds: one line for each thing that was looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of it.
        level: ok; a warning, where something will be slow or may go wrong; a problem, where it will go wrong.
        said: what was found, as a clause without a final stop.
        cure: what to do about it, as a sentence without a final stop; empty where all is well.
    """

    name: str
    level: Level
    said: str
    cure: str = ""

    def as_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return asdict(self)


def ok(name: str, said: str) -> Finding:
    """A finding of something that is well."""
    return Finding(name, "ok", said)


def warning(name: str, said: str, cure: str) -> Finding:
    """A finding of something that will be slow, or may go wrong."""
    return Finding(name, "warning", said, cure)


def problem(name: str, said: str, cure: str) -> Finding:
    """A finding of something that will go wrong."""
    return Finding(name, "problem", said, cure)
