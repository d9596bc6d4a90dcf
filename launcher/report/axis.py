"""Axes: from the values that are to be seen to a range and the round numbers that mark it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_SMALLEST = 1e-300  # that is told from zero: below it powers of ten run out
_MARKS = 5  # of values, about
_MARKS_ACROSS = 6  # of updates, at most: a number needs its width


@dataclass(frozen=True)
class Axis:
    """A range of values on a line from 0 to 1.

    Attributes:
        low: value at 0.
        high: value at 1; more than `low`.
        ticks: round values within the range, upwards.
        log: whether equal distances are equal ratios.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies between 0 and 1."""
        if self.log:
            return (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return (value - self.low) / (self.high - self.low)


def value_axis(values: Iterable[float], *, from_zero: bool) -> Axis:
    """The axis for measured values: logarithmic where they are positive and span more than two decades.

    Args:
        values: what is to be seen; may be empty.
        from_zero: zero must be on it, as where lengths are compared; it is never logarithmic then.
    """
    seen = sorted(values) or [0.0, 1.0]
    low, high = seen[0], seen[-1]
    if not from_zero and low >= _SMALLEST and high / low > 100:
        return _log_axis(low, high)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, _SMALLEST):
        room = 0.5 * largest if largest > _SMALLEST else 1.0
        low, high = (0.0, room) if from_zero else (low - room, high + room)
    step = _round_step((high - low) / _MARKS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, tuple(mark * step for mark in range(first, last + 1)))


def update_axis(first: float, last: float) -> Axis:
    """The axis for the numbers of updates, with half a place beyond the first and the last."""
    step = max(1.0, _round_step((last - first) / _MARKS_ACROSS)) if last > first else 1.0
    marks = range(math.ceil(first / step), math.floor(last / step) + 1)
    return Axis(first - 0.5, last + 0.5, tuple(mark * step for mark in marks))


def _round_step(rough: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten that is not less than `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _log_axis(low: float, high: float) -> Axis:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first <= 3:
        marks = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
        below = max((mark for mark in marks if mark <= low), default=marks[0])
        above = min((mark for mark in marks if mark >= high), default=marks[-1])
        return Axis(below, above, tuple(mark for mark in marks if below <= mark <= above), log=True)
    stride = -(-(last - first) // _MARKS)
    last = first + -(-(last - first) // stride) * stride
    return Axis(10.0**first, 10.0**last, tuple(10.0**power for power in range(first, last + 1, stride)), log=True)
