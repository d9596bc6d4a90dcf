"""The picture: peak memory over the number of losses, a line for each way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.editions.found import Found
from benchmarks.editions.work import Way
from launcher.report.axis import Axis, value_axis
from launcher.report.markup import Markup, element, text

_LEFT, _TOP, _WIDTH, _HEIGHT = 64, 52, 480, 300  # of the plot, in pixels
_ROOM = 240  # for the names of the lines, on the right
_LINE = 17  # from one name to the next at least
_COLOURS = {"joint": "#b3261e", "sequential": "#2c6cb0", "shared": "#0f7b6c"}
_STYLE = Markup(
    "text { font: 13px system-ui, sans-serif; fill: #1d2126; } .soft { fill: #5b636d; }"
    " path, .key { fill: none; stroke-width: 2.5; } .trunk { stroke-dasharray: 6 4; } .grid { stroke: #e7e9ec; }"
)


def draw_peaks(found: Found) -> str:
    """The picture as an SVG file, on white so that it can be seen anywhere."""
    width, height = _LEFT + _WIDTH + _ROOM, _TOP + _HEIGHT + 48
    mebibytes = {way: [peaks[tasks] / 2**20 for tasks in found.tasks] for way, peaks in found.peaks.items()}
    up = value_axis([value for values in mebibytes.values() for value in values], from_zero=True)
    title = "Peak memory of a window above the model, MiB"
    return element(
        "svg",
        element("title", text(title)),
        element("style", _STYLE),
        element("rect", width=width, height=height, rx=8, fill="#ffffff"),
        element("text", text(title), x=_LEFT, y=26, font_weight="600"),
        *_frame(found.tasks, up),
        *(_line(way, found.tasks, values, up) for way, values in mebibytes.items()),
        *_names({way: _y(values[-1], up) for way, values in mebibytes.items()}),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
    )


def _frame(tasks: Sequence[int], up: Axis) -> Iterator[Markup]:
    """Grid lines, and the numbers at both axes."""
    for value in up.ticks:
        y = _y(value, up)
        yield element("line", x1=_LEFT, x2=_LEFT + _WIDTH, y1=y, y2=y, class_="grid")
        yield element("text", text(f"{value:,.0f}"), x=_LEFT - 10, y=y, dy="0.35em", class_="soft", text_anchor="end")
    below = _TOP + _HEIGHT
    for number in tasks:
        yield element("text", text(number), x=_x(number, tasks), y=below + 20, class_="soft", text_anchor="middle")
    yield element(
        "text", text("tasks (losses)"), x=_LEFT + _WIDTH / 2, y=below + 40, class_="soft", text_anchor="middle"
    )


def _line(way: Way, tasks: Sequence[int], values: Sequence[float], up: Axis) -> Markup:
    places = [f"{_x(number, tasks):.1f} {_y(value, up):.1f}" for number, value in zip(tasks, values, strict=True)]
    return element("path", d="M" + "L".join(places), stroke=_COLOURS[way.backward], class_=_kind(way))


def _names(ends: Mapping[Way, float]) -> Iterator[Markup]:
    """What each line is called, beside its end, or below the name above it where there is no room."""
    last = 0.0
    # The names of lines that end together are moved up before they are spread downwards.
    ordered = sorted(ends, key=lambda way: ends[way])
    for place, way in enumerate(ordered):
        below = len(ordered) - 1 - place
        y = max(last + _LINE, min(ends[way], _TOP + _HEIGHT - _LINE * below))
        last = y
        left = _LEFT + _WIDTH + 14
        yield element(
            "line", x1=left, x2=left + 26, y1=y, y2=y, stroke=_COLOURS[way.backward], class_=f"key {_kind(way)}"
        )
        yield element("text", text(f"{way.edition}, {way.layout}"), x=left + 34, y=y, dy="0.35em")


def _kind(way: Way) -> str:
    return "trunk" if way.layout == "trunk" else "own"


def _x(tasks: int, every: Sequence[int]) -> float:
    first, last = every[0], every[-1]
    return _LEFT + _WIDTH * (tasks - first) / max(1, last - first)


def _y(value: float, up: Axis) -> float:
    return _TOP + _HEIGHT * (1 - up.at(value))
