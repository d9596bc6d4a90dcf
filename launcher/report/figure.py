"""A chart on the page: its heading, what to see in it, its legend, and the values when it is pointed at."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.report.chart import Chart, Series, draw
from launcher.report.markup import NOTHING, Markup, element, text
from launcher.report.readout import draw_readout


@dataclass(frozen=True)
class Figure:
    """A picture with its words.

    Attributes:
        heading: what it is, in a few words.
        chart: the picture.
        caption: what there is to see in it.
        otherwise: what to say where there is nothing to be seen.
        wide: whether it takes the whole width of the page.
    """

    heading: str
    chart: Chart
    caption: str = ""
    otherwise: str = "Nothing measured yet."
    wide: bool = False


def render_figure(figure: Figure) -> Markup:
    """The figure as HTML. Without a value to show it says why, instead of an empty frame."""
    chart = figure.chart
    scale = element("span", text("logarithmic scale"), class_="aside") if chart.axes[1].log else NOTHING
    plot = element("div", draw(chart), draw_readout(chart), class_="plot")
    return element(
        "figure",
        element("h3", text(figure.heading), scale),
        element("p", text(figure.caption), class_="caption") if figure.caption else NOTHING,
        element("p", text(figure.otherwise), class_="empty") if chart.is_empty else plot,
        NOTHING if chart.is_empty else _legend(chart.series),
        class_="wide" if figure.wide else None,
    )


def _legend(series: tuple[Series, ...]) -> Markup:
    shown = [one for one in series if one.known]
    if len(shown) < 2:
        return NOTHING
    return element("ul", *(legend_item(f"{one.look} {one.tone}", one.name) for one in shown), class_="legend")


def legend_item(look: str, name: str) -> Markup:
    """One entry of a legend: a sample of how it looks, and what it is called."""
    return element("li", element("span", class_=f"key {look}", aria_hidden="true"), text(name))
