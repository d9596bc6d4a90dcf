"""The whole page: one file that needs nothing else, neither network nor script."""

from __future__ import annotations

from launcher import words
from launcher.plan.windows import Window
from launcher.report.derivation import dealing, ending, equation, full_window, tail_window
from launcher.report.diagram import can_be_drawn, draw_window, kinds_of_boxes, window_in_words
from launcher.report.figure import Figure, legend_item, render_figure
from launcher.report.head import render_head
from launcher.report.markup import NOTHING, Markup, element, join, text
from launcher.report.pictures import (
    batch_figure,
    grad_norm_figure,
    learning_rate_figure,
    loss_figure,
    losses_figures,
    noise_figures,
    reduction_figure,
    small_figures,
    throughput_figure,
)
from launcher.report.read import RunRecord
from launcher.report.style import STYLE
from launcher.report.tables import evaluation_table, numbers_table, plan_table, stages_table

# The browser itself sees to it that the page stays one file: whatever slipped in could load nothing and run nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_MEANINGS = {
    "inner": "micro-step inside no_sync",
    "boundary": "boundary: gradients are reduced",
    "waiting": "waits for the others",
}
_MEANINGS_ALONE = {"inner": "micro-step", "boundary": "boundary: then the optimizer steps"}


def render_page(record: RunRecord) -> str:
    """The report of a run as HTML.

    Args:
        record: everything that is known of the run.
    """
    page = element("html", _meta(record), element("body", element("main", *_sections(record))), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _meta(record: RunRecord) -> Markup:
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", text(f"{record.plan.recipe.name} · {record.run_id}")),
        element("style", STYLE),
    )


def _sections(record: RunRecord) -> tuple[Markup, ...]:
    return (
        render_head(record),
        _figures("Learning", loss_figure(record), *losses_figures(record), *small_figures(record)),
        _batch(record),
        _figures("Optimization", learning_rate_figure(record), grad_norm_figure(record), *noise_figures(record)),
        _figures("Speed", throughput_figure(record), reduction_figure(record)),
        evaluation_table(record),
        element("section", element("h2", text("Plan")), plan_table(record.plan)),
        _folded("Resolved recipe", element("pre", element("code", text(record.recipe)))),
        _folded("Numbers", numbers_table(record), kind="numbers") if record.rows else NOTHING,
    )


def _figures(heading: str, *figures: Figure) -> Markup:
    kind = "figures pair" if len(figures) == 2 and figures[0].wide else "figures"
    grid = element("div", *(render_figure(figure) for figure in figures), class_=kind)
    return element("section", element("h2", text(heading)), grid)


def _batch(record: RunRecord) -> Markup:
    """The batch: what it is made of, how it is dealt, and what it really was."""
    plan = record.plan
    result, made_of = equation(plan)
    full, tail = full_window(plan), tail_window(plan)
    # In data smaller than the batch every window is the tail.
    is_met = plan.length.data_samples is None or plan.length.data_samples >= full.samples
    return element(
        "section",
        element("h2", text("The batch")),
        element("p", element("strong", text(result)), text(f" = {made_of}"), class_="equation"),
        element("p", text(" ".join(part for part in (dealing(plan), ending(plan)) if part)), class_="prose"),
        stages_table(plan),
        element(
            "div",
            _window("A full window", full, wide=not tail) if is_met else NOTHING,
            _window("The tail", tail, wide=not is_met) if tail else NOTHING,
            render_figure(batch_figure(record)),
            class_="figures",
        ),
    )


def _window(heading: str, window: Window, wide: bool) -> Markup:
    """A window as a picture, or in words where it has more boxes than a page can show."""
    if not can_be_drawn(window):
        content = _said(window)
    else:
        content = element("div", draw_window(window), class_="plot ranks")
        meanings = _MEANINGS if window.world_size > 1 else _MEANINGS_ALONE
        items = (legend_item(f"box {kind}", meanings[kind]) for kind in kinds_of_boxes(window))
        content = join([content, element("ul", *items, class_="legend")])
    heading = f"{heading}: {words.plural(window.samples, 'sample')}"
    return element("figure", element("h3", text(heading)), content, class_="wide" if wide else None)


def _said(window: Window) -> Markup:
    shares = window_in_words(window).rstrip(".").split("; ")
    return element("ul", *(element("li", text(share)) for share in shares), class_="prose")


def _folded(summary: str, content: Markup, kind: str | None = None) -> Markup:
    return element("details", element("summary", text(summary)), content, class_=kind)
