"""What the training loop asks of whatever keeps its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from launcher.plan.windows import Window


class Saver(Protocol):
    """Keeps the state of training between two updates."""

    def wishes(self) -> bool:
        """Whether this rank would have the state kept soon, by its clock; one rank's wish is enough."""
        ...

    def due(self, update: int) -> bool:
        """Whether the state is to be kept after an update (from 1); the same on every rank."""
        ...

    def save(self, window: Window, unlogged: Mapping[str, float] | None = None) -> None:
        """Keep the state after the update of a window; every rank must do so after the same update.

        Args:
            window: the window.
            unlogged: the update's row, if it is not logged yet; it is kept too.
        """
        ...

    def finish(self) -> bool:
        """Wait until all that was to be kept is kept; whether the last of it is, the same on every rank."""
        ...


class NoSaver:
    """Keeps nothing."""

    def wishes(self) -> bool:
        """Never."""
        return False

    def due(self, update: int) -> bool:
        """Never."""
        return False

    def save(self, window: Window, unlogged: Mapping[str, float] | None = None) -> None:
        """Nothing is kept."""

    def finish(self) -> bool:
        """Nothing was to be kept."""
        return True
