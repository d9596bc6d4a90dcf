"""Holding the runs of a sweep that have begun to the recipe that they were begun with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from launcher.cli.sweep_request import PlannedRun
from launcher.errors import LauncherError, Mistake, RequestError
from launcher.runners.new_run import has_begun
from launcher.runners.resume import has_changed

_CURE = "Set it back, or begin another sweep by --sweep-id"


def refuse_changed(runs: Iterable[PlannedRun]) -> None:
    """Refuse a sweep whose recipe has changed since some of its runs were begun, before any goes on.

    Args:
        runs: those that would go on.

    Raises:
        RequestError: with every change, each told once.
    """
    mistakes = dict[str, Mistake]()
    for one in runs:
        mistakes |= {str(mistake): mistake for mistake in _changes(one)}
    if mistakes:
        raise RequestError(mistakes.values())


def _changes(one: PlannedRun) -> list[Mistake]:
    try:
        if has_begun(one.directory):
            has_changed(one.directory, one.request.plan, fork=False)
    except RequestError as error:
        return [replace(mistake, cure=_CURE) for mistake in error.mistakes]
    except LauncherError:  # the run cannot be read, which hinders no other: it is told when its turn comes
        return []
    return []
