"""One window as it is dealt to the ranks: a row for each rank, a box for each micro-step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal

from launcher import words
from launcher.plan.windows import Window
from launcher.report.chart import per_cent
from launcher.report.markup import Markup, element, text

BoxKind = Literal["inner", "boundary", "waiting"]

_MOST_RANKS = 16
_MOST_BOXES = 64

_ROW = 34  # pixels from one rank to the next
_BOX = 26  # height of a box
_NARROWEST_WITH_TEXT = 0.07  # part of the width that has room for a number on a phone


def can_be_drawn(window: Window) -> bool:
    """Whether the window is small enough for its boxes to be told apart."""
    return window.world_size <= _MOST_RANKS and -(-window.samples // window.micro) <= _MOST_BOXES


def draw_window(window: Window) -> Markup:
    """The window as one SVG element; the page leaves room on its left for the names of the ranks."""
    shares = _shares(window)
    height = _ROW * len(shares) - (_ROW - _BOX)
    return element(
        "svg",
        element("title", text(f"How {words.plural(window.samples, 'sample')} are dealt to the ranks")),
        element("desc", text(window_in_words(window))),
        *(row for rank, share in enumerate(shares) for row in _row(rank, share, max(map(sum, shares)))),
        class_="window",
        role="img",
        width="100%",
        height=height,
    )


def kinds_of_boxes(window: Window) -> list[BoxKind]:
    """Which boxes the picture of a window has, for its legend."""
    shares = _shares(window)
    longest = max(map(sum, shares))
    present: dict[BoxKind, bool] = {
        "inner": any(len(share) > 1 for share in shares),
        "boundary": True,
        "waiting": any(sum(share) < longest for share in shares),
    }
    return [kind for kind, is_there in present.items() if is_there]


def window_in_words(window: Window) -> str:
    """Who takes what, ranks with the same share together: `ranks 0 to 2: 2 × 32 = 64 samples; rank 3: ...`."""
    said = []
    first = 0
    for share, ranks in groupby(_shares(window)):
        last = first + len(list(ranks)) - 1
        who = f"rank {first}" if first == last else f"ranks {words.count(first)} to {words.count(last)}"
        said.append(f"{who}: {_sum(share)}")
        first = last + 1
    return "; ".join(said) + "."


def _shares(window: Window) -> list[tuple[int, ...]]:
    """Samples of each micro-step of each rank."""
    return [
        tuple(micro_batch.samples for micro_batch in window.micro_batches(rank)) for rank in range(window.world_size)
    ]


def _sum(share: Sequence[int]) -> str:
    if not share:
        return "no samples, takes part with weight zero"
    counted = [(size, len(list(same))) for size, same in groupby(share)]
    terms = [f"{times} × {size}" if times > 1 else f"{size}" for size, times in counted]
    total = words.plural(sum(share), "sample")
    return f"{' + '.join(terms)} = {total}" if len(share) > 1 else total


def _row(rank: int, share: Sequence[int], longest: int) -> Iterator[Markup]:
    """The boxes of a rank, as wide as they have samples, and the time that it waits for the busiest rank."""
    top = _ROW * rank
    middle = top + _BOX / 2
    yield element("text", text(f"rank {rank}"), x="-10", y=middle, dy="0.35em", class_="rank")
    done = 0
    for place, samples in enumerate(share):
        kind: BoxKind = "boundary" if place == len(share) - 1 else "inner"
        left, width = done / longest, samples / longest
        yield _box(left, width, top, kind)
        if width >= _NARROWEST_WITH_TEXT:
            yield element(
                "text", text(samples), x=per_cent(left + width / 2), y=middle, dy="0.35em", class_=f"in-{kind}"
            )
        done += samples
    if done < longest:
        yield _box(done / longest, 1 - done / longest, top, "waiting")


def _box(left: float, width: float, top: int, kind: BoxKind) -> Markup:
    return element("rect", x=per_cent(left), width=per_cent(width), y=top, height=_BOX, rx="4", class_=f"box {kind}")
