"""What one rank alone does and may fail at, told to the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


class Failed:
    """What could not be done, and why; it travels to the other ranks, where an exception would leave them waiting.

    Args:
        error: what was raised.
    """

    def __init__(self, error: OSError) -> None:
        self.reason = error.strerror or str(error)


def attempt(do: Callable[[], _T]) -> _T | Failed:
    """What is done, or why the system did not let it be done."""
    try:
        return do()
    except OSError as error:
        return Failed(error)
