"""Tells, from a thread of its own, that this rank lives and how far it is."""

from __future__ import annotations

import faulthandler
import os
from threading import Event, Thread

from launcher.rundir.heartbeat import BEAT_SECONDS, STACKS, Beat, BeatFile
from launcher.rundir.layout import RunDirectory
from launcher.train.progress import Progress


class Heart:
    """Beats for as long as Python runs in this process; its stacks can be asked for.

    A beat writes some bytes over the last one: some microseconds, twice a second and once an update.

    Args:
        run: the directory of the run.
        rank: this rank.
        progress: how far the rank is, which the training keeps up to date.
        node: the launcher that started it, where there are several.

    Attributes:
        progress: how far the rank is.
    """

    def __init__(self, run: RunDirectory, rank: int, progress: Progress, node: str = "") -> None:
        self._file = BeatFile(run, rank)
        self._rank = rank
        self._node = node
        self.progress = progress
        self._beats = 0
        self._stopped = Event()
        self._thread = Thread(target=self._go, name="heart", daemon=True)

    def start(self) -> None:
        """Beat from now on."""
        faulthandler.register(STACKS, all_threads=True)
        self.beat()
        self._thread.start()

    def beat(self) -> None:
        """Beat now: what is found of a rank that stops a moment later names the right update."""
        self._beats += 1
        at = self.progress
        self._file.write(
            Beat(self._rank, os.getpid(), self._beats, at.marks, at.update, at.phase, at.share, self._node)
        )

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()
        self._thread.join()
        self._file.remove()

    def _go(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            self.beat()
