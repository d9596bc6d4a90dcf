"""What each rank tells about itself a few times a second: that it lives, and how far it is."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal

from launcher.rundir.layout import RunDirectory

BEAT_SECONDS = 0.5
STACKS = signal.SIGUSR2  # asks a rank to write the stacks of its threads to its log; it goes on after that
_WIDTH = 256  # every beat is as long as the last: it is written over it, which a full disk does not hinder

Phase = Literal["computing", "computed", "evaluating", "evaluated", "saving", "saved", "ending"]
_PHASES: tuple[Phase, ...] = ("computing", "computed", "evaluating", "evaluated", "saving", "saved", "ending")


@dataclass(frozen=True)
class Beat:
    """How a rank stands.

    Attributes:
        rank: the rank.
        pid: its process.
        beats: how often it has told; no clock is in it, for those of two machines differ.
        marks: how often it has got further, in whatever.
        update: the update that it is in, from 1; 0 before the first.
        phase: computed, evaluated and saved mean that it has nothing more to do until the other ranks have, too;
            ending, that no update is to come.
        share: of its micro-steps of the update that it has begun, from 0 to 1.
        node: the launcher that started it, of several; only that one knows its process.
    """

    rank: int
    pid: int
    beats: int
    marks: int
    update: int
    phase: Phase
    share: float
    node: str = ""

    @property
    def position(self) -> tuple[int, int, float]:
        """How far the rank is, to be compared with others."""
        return self.update, _PHASES.index(self.phase), self.share


class BeatFile:
    """Where a rank writes its beats, one over the other.

    Args:
        run: the directory of the run.
        rank: the rank.
    """

    def __init__(self, run: RunDirectory, rank: int) -> None:
        run.heartbeats.mkdir(exist_ok=True)
        self._path = run.heartbeats / f"rank_{rank}"
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, beat: Beat) -> None:
        """Write a beat; trouble with the disk is not the rank's."""
        with suppress(OSError):
            os.pwrite(self._descriptor, json.dumps(asdict(beat)).ljust(_WIDTH).encode(), 0)

    def remove(self) -> None:
        """Beat no more: what the rank does now is not watched."""
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)


def read_beats(run: RunDirectory) -> list[Beat]:
    """The last beats of the ranks that are there; one that is being written is left out."""
    beats = []
    for path in run.heartbeats.glob("rank_*"):
        with suppress(OSError, ValueError, TypeError):
            beats.append(Beat(**json.loads(path.read_bytes())))
    return sorted(beats, key=lambda beat: beat.rank)
