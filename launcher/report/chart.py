"""Charts as SVG that fits any width: places across are percentages, so that text and lines keep their size.

What is drawn left of 0 % and below the plot (the numbers at the axes) hangs over its edge; the page leaves room for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from launcher.report import words
from launcher.report.axis import LARGEST, Axis, update_axis, value_axis
from launcher.report.markup import Markup, element, join, text
from launcher.report.read import Point
from launcher.report.thinning import thinned

Look = Literal["line", "faint", "dashed", "dots", "bars"]
Tone = Literal["a", "b", "c"]

_ACROSS = 1000.0  # units of the stretched drawing that holds the lines
_MOST_DOTS = 200


@dataclass(frozen=True)
class Series:
    """One metric as it is drawn.

    Attributes:
        name: what the legend calls it.
        points: (update, value) in order of the update.
        look: how it is drawn; `faint` is a line that another one summarises.
        tone: its colour.
        step: draw level from each update to the next instead of straight between them.
    """

    name: str
    points: Sequence[Point]
    look: Look = "line"
    tone: Tone = "a"
    step: bool = False

    def seen(self) -> list[Point]:
        """The points that are drawn; a value that no axis can hold is a gap."""
        points = [(x, y if y is not None and abs(y) < LARGEST else None) for x, y in self.points]
        if self.look in ("dots", "bars"):
            points = [point for point in points if point[1] is not None]
        return thinned(points, _MOST_DOTS if self.look == "dots" else 1000)

    def known(self) -> list[tuple[float, float]]:
        """The points that are drawn and have a value."""
        return [(x, y) for x, y in self.seen() if y is not None]


@dataclass(frozen=True)
class Chart:
    """One picture over the updates of a run.

    Attributes:
        title: what it shows, for readers who do not see it.
        series: what is drawn, from the back to the front.
        form: how a value is written.
        from_zero: the value axis holds zero.
        may_be_log: the value axis may be logarithmic.
        height: of the plot, in pixels.
    """

    title: str
    series: tuple[Series, ...]
    form: Callable[[float], str] = words.amount
    from_zero: bool = False
    may_be_log: bool = True
    height: int = 200

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """The axis of updates and that of values."""
        updates = sorted({x for series in self.series for x, _ in series.points})
        values = [y for series in self.series for _, y in series.known()]
        return update_axis(updates), value_axis(values, from_zero=self.from_zero, may_be_log=self.may_be_log)

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
        *(_dots(series, across, up, chart.height) for series in chart.series if series.look == "dots"),
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
    for value in up.ticks:
        y = chart.height * (1 - up.at(value))
        kind = "zero" if value == 0 else "grid"
        yield element("line", x1="0", x2="100%", y1=y, y2=y, class_=kind)
        yield element("text", text(chart.form(value)), x="-8", y=y, dy="0.32em", class_="mark up")
    for update in across.ticks:
        x = per_cent(across.at(update))
        yield element("text", text(words.count(update)), x=x, y=chart.height + 18, class_="mark across")


def _line(series: Series, across: Axis, up: Axis, height: int) -> Markup:
    """A path, broken where values are missing; a single point becomes a dot by its round ends."""
    pieces = []
    for has_value, run in groupby(series.seen(), key=lambda point: point[1] is not None):
        if has_value:
            places = [(_x(x, across), _y(y, up, height)) for x, y in run if y is not None]
            pieces.append(_piece(places, series.step))
    return element("path", d="".join(pieces), class_=f"{series.look} {series.tone}") if pieces else Markup("")


def _piece(places: Sequence[tuple[str, str]], step: bool) -> str:
    (x, y), *rest = places
    if not rest:
        return f"M{x} {y}h0"
    return f"M{x} {y}" + "".join(f"H{x}V{y}" if step else f"L{x} {y}" for x, y in rest)


def _x(update: float, across: Axis) -> str:
    return f"{_ACROSS * across.at(update):.1f}"


def _y(value: float, up: Axis, height: int) -> str:
    return f"{height * (1 - up.at(value)):.1f}"


def _dots(series: Series, across: Axis, up: Axis, height: int) -> Markup:
    return element(
        "g",
        *(element("circle", cx=per_cent(across.at(x)), cy=_y(y, up, height), r="4") for x, y in series.known()),
        class_=f"dots {series.tone}",
    )


def _bars(series: Series, across: Axis, up: Axis, height: int) -> Markup:
    width = 0.8 / (across.high - across.low)
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
            for x, y in series.known()
        ),
        class_=f"bars {series.tone}",
    )


def _description(chart: Chart) -> str:
    """What a reader would read off: where each series begins and ends, and how far it goes."""
    said = []
    for series in chart.series:
        known = series.known()
        if not known:
            said.append(f"{series.name}: no values.")
            continue
        (first, begin), (last, end) = known[0], known[-1]
        low, high = min(y for _, y in known), max(y for _, y in known)
        said.append(
            f"{series.name}: {chart.form(begin)} at update {words.count(first)}, {chart.form(end)} at update "
            f"{words.count(last)}, between {chart.form(low)} and {chart.form(high)}."
        )
    return " ".join(said)
