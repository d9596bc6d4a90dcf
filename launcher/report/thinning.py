"""Fewer points that show the same: what is left of a long run when it is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from launcher.report.read import Point


def thinned(points: Sequence[Point], limit: int = 1000) -> list[Point]:
    """At most about `limit` of the points, with every spike: of each bucket its first lowest and its first highest.

    A bucket without any value leaves one point without a value, so that a gap stays a gap.

    Args:
        points: (update, value) in order of the update.
        limit: points to keep; at least 4.
    """
    if len(points) <= limit:
        return list(points)
    # The first and the last stay as they are: a run's beginning and end are what people read off.
    inner = points[1:-1]
    return [
        points[0],
        *(kept for bucket in _buckets(inner, (limit - 2) // 2) for kept in _extremes(bucket)),
        points[-1],
    ]


def chunk_means(points: Sequence[Point], chunks: int = 100) -> tuple[list[Point], int]:
    """The mean of each run of neighbouring points, at the middle of its updates.

    Args:
        points: (update, value) in order of the update.
        chunks: about how many means to make.

    Returns:
        The means, and of how many updates each is one.
    """
    length = max(1, -(-len(points) // chunks))
    means: list[Point] = []
    for start in range(0, len(points), length):
        chunk = points[start : start + length]
        values = [value for _, value in chunk if value is not None]
        means.append(((chunk[0][0] + chunk[-1][0]) / 2, fmean(values) if values else None))
    return means, length


def _buckets(points: Sequence[Point], how_many: int) -> Iterator[Sequence[Point]]:
    for index in range(how_many):
        yield points[len(points) * index // how_many : len(points) * (index + 1) // how_many]


def _extremes(bucket: Sequence[Point]) -> list[Point]:
    known = [(update, value) for update, value in bucket if value is not None]
    if not known:
        return list(bucket[:1])
    low, high = min(known, key=_value), max(known, key=_value)
    return [low] if low == high else sorted((low, high))


def _value(point: tuple[float, float]) -> float:
    return point[1]
