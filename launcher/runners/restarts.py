"""How often a run that fails is started again."""

from __future__ import annotations


class RestartBudget:
    """Counts the tries that bring a run no further; each new checkpoint grants all of them again.

    Args:
        tries: how many there are.
    """

    def __init__(self, tries: int) -> None:
        self._tries = self._left = tries
        self._reached = 0

    def take(self, checkpoint: int, from_start: bool = False) -> int | None:
        """Take a try.

        Args:
            checkpoint: the update of the newest checkpoint; 0 where there is none, and nothing to go on from.
            from_start: whether the run may then begin again: it was not the run itself that failed.

        Returns:
            How many are left after it, or None if there was none to take.
        """
        if checkpoint > self._reached:
            self._reached, self._left = checkpoint, self._tries
        if not (checkpoint or from_start) or not self._left:
            return None
        self._left -= 1
        return self._left
