"""Charts as SVG that fits any width: places across are percentages, so that text and lines keep their size.

What is drawn left of 0 % and below the plot (the numbers at the axes) hangs over its edge; the page leaves room for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal

from launcher import words
from launcher.report.axis import Axis, update_axis, value_axis
from launcher.report.markup import NOTHING, Markup, element, text
from launcher.report.read import Point
from launcher.report.thinning import thinned

Look = Literal["line", "faint", "dashed", "marked", "dots", "bars"]
Tone = Literal["a", "b", "c"]

_ACROSS = 1000.0  # units of the stretched drawing that holds the lines
_MOST_BARS_WITH_GAPS = 60
_WIDEST_BAR = 0.1  # of the width
_MOST_MARKS = 200  # dots or bars; lines may have more points


@dataclass(frozen=True)
class Series:
    """One metric as it is drawn.

    Attributes:
        name: what the legend calls it.
        points: (update, value) in order of the update.
        look: how it is drawn; `faint` is a line that another one summarises, `marked` one with dots.
        tone: its colour.
        step: draw level from each update to the next instead of straight between them.
    """

    name: str
    points: Sequence[Point]
    look: Look = "line"
    tone: Tone = "a"
    step: bool = False

    @cached_property
    def seen(self) -> list[Point]:
        """The points that are drawn."""
        if self.look in ("dots", "bars"):
            return thinned([point for point in self.points if point[1] is not None], _MOST_MARKS)
        return thinned(self.points)

    @property
    def known(self) -> list[tuple[float, float]]:
        """The points that are drawn and have a value."""
        return [(x, y) for x, y in self.seen if y is not None]


@dataclass(frozen=True)
class Chart:
    """One picture over the updates of a run.

    Attributes:
        title: what it shows, for readers who do not see it.
        span: first and last update that it covers.
        series: what is drawn, from the back to the front.
        form: how a value is written, to so many significant digits.
        from_zero: the value axis holds zero and is not logarithmic.
        height: of the plot, in pixels.
    """

    title: str
    span: tuple[float, float]
    series: tuple[Series, ...]
    form: Callable[[float, int], str] = words.amount
    from_zero: bool = False
    height: int = 200

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """The axis of updates and that of values."""
        values = [y for series in self.series for _, y in series.known]
        return update_axis(*self.span), value_axis(values, from_zero=self.from_zero)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to see."""
        return not any(series.known for series in self.series)

    @property
    def is_log(self) -> bool:
        """Whether the value axis is logarithmic."""
        return self.axes[1].log


def draw(chart: Chart) -> Markup:
    """The chart as one SVG element."""
    across, up = chart.axes
    lines = element(
        "svg",
        *(_line(series, across, up, chart.height) for series in chart.series if series.look not in ("dots", "bars")),
        viewBox=f"0 0 {_ACROSS:.0f} {chart.height}",
        preserveAspectRatio="none",
        width="100%",
        height=chart.height,
        class_="lines",
    )
    return element(
        "svg",
        element("title", text(chart.title)),
        element("desc", text(_description(chart))),
        *_frame(across, up, chart),
        *(_bars(series, across, up, chart.height) for series in chart.series if series.look == "bars"),
        lines,
        *(_dots(series, across, up, chart.height) for series in chart.series if series.look != "bars"),
        class_="chart",
        role="img",
        width="100%",
        height=chart.height,
    )


def per_cent(part: float) -> str:
    """A place across, from 0 to 1, as SVG takes it."""
    return f"{100 * part:.2f}".rstrip("0").rstrip(".") + "%"


def _frame(across: Axis, up: Axis, chart: Chart) -> Iterator[Markup]:
    """Grid lines and the numbers beside them."""
    for value, label in zip(up.ticks, _labels(up.ticks, chart.form), strict=True):
        y = chart.height * (1 - up.at(value))
        kind = "zero" if value == 0 else "grid"
        yield element("line", x1="0", x2="100%", y1=y, y2=y, class_=kind)
        yield element("text", text(label), x="-8", y=y, dy="0.32em", class_="mark up")
    for update in across.ticks:
        x = per_cent(across.at(update))
        yield element("text", text(words.count(update)), x=x, y=chart.height + 18, class_="mark across")


def _labels(ticks: Sequence[float], form: Callable[[float, int], str]) -> list[str]:
    """The ticks with as few digits as tell them all apart."""
    for digits in (3, 4, 6, 9):
        labels = [form(value, digits) for value in ticks]
        if len(set(labels)) == len(labels):
            return labels
    return [form(value, 15) for value in ticks]


def _line(series: Series, across: Axis, up: Axis, height: int) -> Markup:
    """A path, broken where values are missing."""
    pieces = []
    for run in _unbroken(series):
        (x, y), *rest = [(_x(x, across), _y(y, up, height)) for x, y in run]
        pieces.append(f"M{x} {y}" + "".join(f"H{x}V{y}" if series.step else f"L{x} {y}" for x, y in rest))
    return element("path", d="".join(pieces), class_=f"{series.look} {series.tone}") if pieces else NOTHING


def _unbroken(series: Series) -> Iterator[list[tuple[float, float]]]:
    """The stretches of a series between missing values."""
    for has_value, run in groupby(series.seen, key=lambda point: point[1] is not None):
        if has_value:
            yield [(x, y) for x, y in run if y is not None]


def _x(update: float, across: Axis) -> str:
    return f"{_ACROSS * across.at(update):.1f}"


def _y(value: float, up: Axis, height: int) -> str:
    return f"{height * (1 - up.at(value)):.1f}"


def _dots(series: Series, across: Axis, up: Axis, height: int) -> Markup:
    """A dot at each point; of a line, at the points that stand alone, which a path would not show."""
    points = series.known
    if series.look not in ("dots", "marked"):
        points = [run[0] for run in _unbroken(series) if len(run) == 1]
    if not points:
        return NOTHING
    dots = (element("circle", cx=per_cent(across.at(x)), cy=_y(y, up, height), r="4") for x, y in points)
    return element("g", *dots, class_=f"dots {series.tone}")


def _bars(series: Series, across: Axis, up: Axis, height: int) -> Markup:
    # The gaps between many bars would flicker in a narrow place, and bars that only just touch show seams.
    places = across.high - across.low
    width = min(_WIDEST_BAR, (0.8 if places <= _MOST_BARS_WITH_GAPS else 1.05) / places)
    base = height * (1 - up.at(max(0.0, up.low)))
    return element(
        "g",
        *(
            element(
                "rect",
                x=per_cent(across.at(x) - width / 2),
                width=per_cent(width),
                y=min(base, height * (1 - up.at(y))),
                height=abs(base - height * (1 - up.at(y))),
            )
            for x, y in series.known
        ),
        class_=f"bars {series.tone}",
    )


def _description(chart: Chart) -> str:
    """What a reader would read off: where each series begins and ends, and how far it goes."""
    said = []
    for series in chart.series:
        known = series.known
        if not known:
            said.append(f"{series.name}: no values.")
            continue
        (first, begin), (last, end) = known[0], known[-1]
        ends = (begin, end, min(y for _, y in known), max(y for _, y in known))
        at_first, at_last, low, high = (chart.form(value, 4) for value in ends)
        said.append(
            f"{series.name}: {at_first} at update {words.count(first)}, {at_last} at update {words.count(last)}, "
            f"between {low} and {high}."
        )
    return " ".join(said)
