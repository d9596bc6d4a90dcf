"""What a test of a proof found, and what all tests use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.rundir.proof import Cause, Kind
from launcher.train.accumulation import MicroBatchData
from launcher.train.proof.bench import Bench, micro_batches, positions

_MOST_PLACES = 8


@dataclass(frozen=True)
class Finding:
    """A cause as a test found it, without the errors of the window: see `Cause`."""

    kind: Kind
    finding: str
    evidence: str
    cure: str
    places: tuple[str, ...] = ()

    def as_cause(self, error_with: float | None = None, error_without: float | None = None) -> Cause:
        """The finding as a cause, with the errors of the window while it is on and when it is off."""
        return Cause(
            kind=self.kind,
            finding=self.finding,
            places=few(self.places),
            evidence=self.evidence,
            error_with=error_with,
            error_without=error_without,
            cure=self.cure,
        )


def few(names: Sequence[str]) -> tuple[str, ...]:
    """The first of some names, and how many more there are."""
    more = len(names) - _MOST_PLACES
    return tuple(names) if more <= 1 else (*names[:_MOST_PLACES], f"and {more} more")


def first_micro_batch(bench: Bench) -> MicroBatchData:
    """The first micro-batch of the window that has items, whichever rank takes it."""
    batches = (bench.batch(positions(part)) for part in micro_batches(bench.loaded.window))
    return next(batch for batch in batches if any(batch.items.values()))
