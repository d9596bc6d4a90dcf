"""The top of the page: which run, how it went, why it failed, what the plan warned of, and its numbers at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from launcher import words
from launcher.report.evaluation import evaluations, headline
from launcher.report.markup import NOTHING, Markup, element, text
from launcher.report.read import RunRecord

_LATEST = 100  # updates that tell how fast a run is now

_ENDINGS = {
    "preempted": "Stopped by a signal, safe to start again.",
    "interrupted": "Interrupted by hand.",
}


@dataclass(frozen=True)
class Tile:
    """One number at a glance: what it is, the number, and what else there is to know of it."""

    label: str
    value: str
    note: str = ""


def render_head(record: RunRecord) -> Markup:
    """Name, state and outcome of the run, then what went wrong or may, then its numbers."""
    state = record.status.state if record.status else "unknown"
    name = record.plan.recipe.name
    return element(
        "header",
        element("p", text(record.run_id), class_="run-id") if record.run_id != name else NOTHING,
        element("h1", text(name)),
        element(
            "p",
            element("span", text("no status" if state == "unknown" else state), class_=f"state {state}"),
            element("span", text(_outcome(record)), class_="outcome"),
        ),
        _cause(record),
        _warnings(record),
        element("dl", *(_tile(tile) for tile in _tiles(record)), class_="tiles"),
    )


def _outcome(record: RunRecord) -> str:
    """How far the run came, and how it ended."""
    planned = record.plan.length.updates
    made = words.plural(record.updates, "update")
    if planned is not None:
        made = f"{words.count(record.updates)} of {words.plural(planned, 'update')}"
    status = record.status
    if status is None:
        return f"{made} made."
    ending = _to_go(record) if status.state == "running" else _ENDINGS.get(status.state, "")
    code = f"Exit code {status.exit_code}." if status.exit_code else ""
    return " ".join(part for part in (f"{made} made.", ending, code) if part)


def _to_go(record: RunRecord) -> str:
    """How long a running run has still to go, by its latest updates."""
    planned, latest = record.plan.length.updates, record.values("time/update")[-_LATEST:]
    if planned is None or not latest or planned <= record.updates:
        return ""
    return f"About {words.duration(median(latest) * (planned - record.updates))} to go."


def _cause(record: RunRecord) -> Markup:
    """The root cause of a failed run, in the words of the rank that failed first."""
    if record.status is None or record.status.state != "failed":
        return NOTHING
    failure, cause = record.status.failure, record.cause
    if failure is None and cause is None:
        return _note("Root cause", element("p", text("Nothing is on record; the logs may tell.")), kind="bad")
    rank = failure.rank if failure else cause.rank if cause else -1
    raised = failure.exception if failure else cause.exception if cause else ""
    who = f"Rank {rank}" if rank >= 0 else "No rank failed first"
    when = f", in update {words.count(cause.update)}" if cause and cause.update else ""
    message = cause.message.strip() if cause else ""
    return _note(
        "Root cause",
        element("p", text(f"{who}{when}: "), element("strong", text(raised))),
        element("pre", text(message)) if message not in raised else NOTHING,
        element("p", text("The rest is in "), element("code", text(_within(record, failure.log))))
        if failure
        else NOTHING,
        kind="bad",
    )


def _within(record: RunRecord, log: str) -> str:
    """A path within the run directory: the page is handed on, and where it was made is nobody's business."""
    return log.rpartition(f"/{record.run_id}/")[2]


def _warnings(record: RunRecord) -> Markup:
    said = list(record.plan.warnings)
    if record.unreadable:
        lines = words.plural(record.unreadable, "line")
        said.append(
            f"{lines} of metrics.jsonl cannot be read, as after a kill in the middle of writing; left out here."
        )
    lost = [update for update, loss in record.column("train/loss") if loss is None]
    if lost:
        updates = words.plural(len(lost), "update")
        said.append(f"The loss is not a finite number in {updates}, first in update {words.count(lost[0])}.")
    skipped = record.values("train/skipped_updates")
    if skipped and skipped[-1]:
        said.append(
            f"{words.plural(skipped[-1], 'update')} made no optimizer step: the window had no items, or the gradient "
            "overflowed in fp16. The learning rate waited."
        )
    if not said:
        return NOTHING
    return _note("Warnings", element("ul", *(element("li", text(words.sentence(one))) for one in said)), kind="warn")


def _note(heading: str, *content: Markup, kind: str) -> Markup:
    return element("section", element("h2", text(heading)), *content, class_=f"note {kind}")


def _tile(tile: Tile) -> Markup:
    note = element("dd", text(tile.note), class_="beside") if tile.note else NOTHING
    return element("div", element("dt", text(tile.label)), element("dd", text(tile.value)), note)


def _tiles(record: RunRecord) -> Iterator[Tile]:
    yield _samples_tile(record)
    yield Tile("Samples per update", words.count(record.plan.batch.global_), _tail_note(record))
    yield _loss_tile(record)
    yield from _evaluation_tile(record)
    yield _speed_tile(record)
    yield _time_tile(record)


def _samples_tile(record: RunRecord) -> Tile:
    epochs = record.values("train/epoch")
    note = f"{words.number(epochs[-1], 3)} epochs" if epochs else ""
    return Tile("Samples seen", words.count(record.samples_seen), note)


def _tail_note(record: RunRecord) -> str:
    plan = record.plan
    if len(plan.stages) > 1:
        return f"{words.count(plan.stages[0].global_)} at first"
    if plan.length.tail_samples and plan.recipe.batch.tail == "keep":
        return f"{words.count(plan.length.tail_samples)} in the tail"
    return f"on {words.plural(plan.batch.world_size, 'rank')}"


def _loss_tile(record: RunRecord) -> Tile:
    points = [(value, update) for update, value in record.column("train/loss") if value is not None]
    if not points:
        return Tile("Training loss", words.UNKNOWN)
    lowest, update = min(points)
    note = f"lowest {words.number(lowest)} at update {words.count(update)}"
    return Tile("Training loss", words.number(points[-1][0]), note)


def _evaluation_tile(record: RunRecord) -> Iterator[Tile]:
    shown = headline(evaluations(record))
    if shown is not None and shown.best is not None:
        note = f"at update {words.count(shown.best.update)}; last {words.number(shown.last.value)}"
        yield Tile(f"Best {shown.name}", words.number(shown.best.value), note)


def _speed_tile(record: RunRecord) -> Tile:
    speeds = record.values("throughput/samples_per_sec")
    value = words.amount(median(speeds)) if speeds else words.UNKNOWN
    return Tile("Samples per second", value, "median of all updates" if speeds else "")


def _time_tile(record: RunRecord) -> Tile:
    seconds = record.values("time/update")
    peak = record.values("memory/peak_bytes")
    note = f"{words.size(max(peak))} of memory at most" if peak else ""
    return Tile("Time in updates", words.duration(sum(seconds)) if seconds else words.UNKNOWN, note)
