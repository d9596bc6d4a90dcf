"""What a chart says of one update when it is pointed at: without a script, a column over each place that lights up."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from launcher import words
from launcher.report.chart import Chart, per_cent
from launcher.report.markup import Markup, element, join, text

_MOST_COLUMNS = 120


def draw_readout(chart: Chart) -> Markup:
    """The columns of a chart, to be laid over it. It repeats the chart, so it is hidden from those who listen."""
    across, _ = chart.axes
    values = [(series.name, dict(series.points)) for series in chart.series]
    updates = _columns(chart)
    edges = [0.0, *(across.at((a + b) / 2) for a, b in pairwise(updates)), 1.0]
    columns = []
    for place, update in enumerate(updates):
        said = [f"{name} {chart.form(y, 4)}" for name, of in values if (y := of.get(update)) is not None]
        left, right, x = edges[place], edges[place + 1], per_cent(across.at(update))
        columns.append(
            element(
                "g",
                element("rect", x=per_cent(left), width=per_cent(right - left), y=0, height=chart.height),
                element("line", x1=x, x2=x, y1=0, y2=chart.height),
                element("text", text(" · ".join([f"update {words.count(update)}", *said])), x="100%", y="-9"),
            )
        )
    return element("svg", join(columns), class_="readout", aria_hidden="true", width="100%", height=chart.height)


def _columns(chart: Chart) -> list[float]:
    """Updates to tell of: all of them in a short run, else evenly spread, and those that only some series have."""
    first, last = chart.span
    everywhere = sorted({x for series in chart.series for x, _ in series.points if first <= x <= last})
    if len(everywhere) <= _MOST_COLUMNS:
        return everywhere
    rare = {x for series in chart.series if series.look in ("dots", "marked") for x, _ in series.points}
    longest = max((series.points for series in chart.series), key=len)
    spread = _spread([x for x, _ in longest], _MOST_COLUMNS)
    if len(rare) > _MOST_COLUMNS // 2:
        return spread
    # A rare point takes the place of the column that is nearest to it.
    for x in rare:
        spread[min(bisect_left(spread, x), len(spread) - 1)] = x
    return sorted(set(spread))


def _spread(updates: Sequence[float], how_many: int) -> list[float]:
    last = len(updates) - 1
    return [updates[last * index // (how_many - 1)] for index in range(how_many)]
