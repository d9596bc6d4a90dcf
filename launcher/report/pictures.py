"""The charts of a report: which metrics they show, and what their captions say."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from launcher import words
from launcher.plan.noise import BatchNoise
from launcher.report.chart import Chart, Look, Series, Tone
from launcher.report.derivation import counted
from launcher.report.figure import Figure
from launcher.report.read import Point, RunRecord, update_of
from launcher.report.thinning import chunk_means

_MOST_BARS = 150  # updates; a longer run is drawn as a line
_MANY = 300  # updates; from here on a line is too restless to be read without its means
_MOST_DASHED_STEPS = 60  # updates
_MOST_SMALL_CHARTS = 12
_MOST_DOTS_ON_A_LINE = 60
_LEARNING_HEIGHT = 250  # pixels; what was learnt is looked at most

# Lines that are told apart in one chart.
_LINES: tuple[tuple[Tone, Look], ...] = (
    ("a", "line"), ("b", "line"), ("c", "line"), ("a", "dashed"), ("b", "dashed"), ("c", "dashed"),
)  # fmt: skip

LOSS = "train/loss"
EVAL_LOSS = "eval/loss"


def loss_figure(record: RunRecord) -> Figure:
    """Loss over updates: every update's, and the evaluation's where it is a loss too."""
    trained = _with_means(LOSS, record.column(LOSS))
    evaluated = Series(EVAL_LOSS, record.column(EVAL_LOSS), look="dots", tone="b")
    chart = Chart(
        "Loss over the updates of the run", record.span, (*trained, evaluated), words.number, height=_LEARNING_HEIGHT
    )
    caption = "Of each update, the exact weighted mean over all its samples on all ranks."
    return Figure("Loss", chart, caption, wide=True)


def losses_figures(record: RunRecord) -> Iterator[Figure]:
    """The losses of a run that has several, each a line; in more than one figure where one would be too full."""
    names = record.metrics(LOSS + "/")
    for place in range(0, len(names), len(_LINES)):
        shown = names[place : place + len(_LINES)]
        series = (_smoothed(name, record.column(name), *look) for name, look in zip(shown, _LINES, strict=False))
        chart = Chart(
            "Each loss over the updates of the run", record.span, tuple(series), words.number, height=_LEARNING_HEIGHT
        )
        yield Figure("Losses", chart, "Of each update, the exact mean of each loss, before its weight.")


def small_figures(record: RunRecord) -> Iterator[Figure]:
    """Evaluations with a scale of their own; at most a dozen."""
    names = [name for name in record.metrics("eval/") if name != EVAL_LOSS]
    for name in names[:_MOST_SMALL_CHARTS]:
        series = _dotted(name, record.column(name), "b")
        title = f"{name} over the updates of the run"
        yield Figure(name, Chart(title, record.span, (series,), words.number, height=_LEARNING_HEIGHT))


def batch_figure(record: RunRecord) -> Figure:
    """The effective global batch of every update, with the tails apart."""
    full: list[Point] = []
    tails: list[Point] = []
    points = record.column("batch/global_samples")
    for update, samples in points:
        # A row counts updates from 1, and a plan from 0.
        short = samples is not None and samples < record.plan.global_batch_at(update - 1)
        (tails if short else full).append((update, samples))
    if len(points) <= _MOST_BARS:
        series = (Series("full window", full, "bars"), Series("tail", tails, "bars", "b"))
    else:
        series = (Series("full window", full, "line", step=True), Series("tail", tails, "dots", "b"))
    chart = Chart("Samples in each update, over all ranks", record.span, series, from_zero=True)
    return Figure("Effective global batch", chart, counted(record), wide=True)


def learning_rate_figure(record: RunRecord) -> Figure:
    """The learning rate of every update."""
    plan = record.plan.learning_rate
    scaling = record.plan.recipe.lr_scaling
    peak = f"Peak {words.number(plan.peak)}"
    if plan.scale != 1:
        peak += f" = {words.number(plan.base)} × {words.number(plan.scale)}, {scaling.rule} in the global batch"
    warmup = f", {words.plural(plan.warmup_updates, 'update')} of warm-up" if plan.warmup_updates else ""
    chart = Chart(
        "Learning rate of each update",
        record.span,
        (Series("train/learning_rate", record.column("train/learning_rate")),),
        words.number,
        from_zero=True,
    )
    return Figure("Learning rate", chart, f"{peak}; {plan.shape}{warmup}. It counts updates, not micro-steps.")


def grad_norm_figure(record: RunRecord) -> Figure:
    """The norm of the reduced gradient, and where it was clipped."""
    limit = record.plan.recipe.train.max_grad_norm
    norms = record.values("train/grad_norm")
    series = _with_means("train/grad_norm", record.column("train/grad_norm"))
    caption = "L2 norm of the whole gradient, after the ranks' sums are added up."
    if limit is not None and norms:
        clipped = sum(norm > limit for norm in norms)
        caption += (
            f" Clipped at {words.number(limit)} in {words.count(clipped)} of {words.plural(len(norms), 'update')}."
        )
        # A limit far above the norms would flatten them.
        if max(norms) > limit / 2:
            first, last = record.span
            ends = [(first - 0.5, limit), (last + 0.5, limit)]
            series = (Series("clipped above", ends, "dashed", "b"), *series)
    return Figure(
        "Gradient norm", Chart("L2 norm of the gradient of each update", record.span, series, words.number), caption
    )


def noise_figures(record: RunRecord) -> Iterator[Figure]:
    """The gradient noise scale with the global batch beside it, where it was measured."""
    metric = "train/gradient_noise_scale"
    measured = record.values(metric)
    if not measured:
        return
    noise = BatchNoise(record.plan.batch.global_, measured[-1])
    first, last = record.span
    ends: list[Point] = [(first - 0.5, noise.global_batch), (last + 0.5, noise.global_batch)]
    batch = Series("global batch", ends, "dashed", "b")
    title = "Gradient noise scale and global batch, in samples"
    chart = Chart(title, record.span, (batch, _dotted(metric, record.column(metric), "a")), words.number)
    caption = f"At the end {noise.sentence}. With {noise.setting}, the plan of the next run says so too."
    yield Figure("Gradient noise scale", chart, caption, wide=True)


def throughput_figure(record: RunRecord) -> Figure:
    """Samples per second over all ranks."""
    metric = "throughput/samples_per_sec"
    speeds = record.values(metric)
    waited, worked = sum(record.values("time/data")), sum(record.values("time/update"))
    caption = f"Median {words.amount(median(speeds))} samples per second over all ranks" if speeds else ""
    if worked:
        caption += f"; {words.share(waited, worked)} of the time was spent waiting for data"
    chart = Chart(
        "Samples per second over all ranks", record.span, _with_means(metric, record.column(metric)), from_zero=True
    )
    return Figure("Throughput", chart, caption and caption + ".")


def reduction_figure(record: RunRecord) -> Figure:
    """Bytes of gradient that one rank handed to all-reduce, against what it would be without `no_sync`."""
    title, heading = "Bytes of gradient all-reduced by one rank in each update", "Gradient traffic per update"
    if record.plan.batch.world_size == 1:
        nothing = Chart(title, record.span, ())
        return Figure(heading, nothing, otherwise="One rank: no gradient crosses the network.")
    sent, without = record.column("comm/allreduce_bytes"), _without_no_sync(record)
    # Dashes are lost in the steps that tails make, and in a long run the steps are lost too.
    shown = without if len(without) <= _MANY else chunk_means(without)[0]
    look: Look = "line" if _MOST_DASHED_STEPS < len(without) <= _MANY else "dashed"
    series = (Series("without no_sync", shown, look, "b", step=True), Series("all-reduced", sent))
    chart = Chart(title, record.span, series, words.size, from_zero=True)
    return Figure(heading, chart, _saving(sent, without, record.plan.batch.accumulation))


def _without_no_sync(record: RunRecord) -> list[Point]:
    """One copy of the gradient for each micro-step. The plan's, where it is known: the count may be off."""
    planned, accumulation = record.plan.reduction, record.plan.batch.accumulation
    points: list[Point] = []
    for row in record.rows:
        # An engine that reduces in every micro-step has no saving: what it reduces per update is no single copy.
        copy = row.get("comm/allreduce_bytes") if planned is None else planned.bytes_without_no_sync / accumulation
        steps = row.get("batch/micro_steps")
        points.append((update_of(row), None if copy is None or steps is None else copy * steps))
    return points


def _saving(sent: list[Point], without: list[Point], accumulation: int) -> str:
    would = dict(without)
    pairs = [(y, would_be) for x, y in sent if y is not None and (would_be := would.get(x)) is not None]
    crossed, otherwise = sum(y for y, _ in pairs), sum(y for _, y in pairs)
    if not pairs:
        return ""
    if crossed < otherwise:
        kept = words.share(otherwise - crossed, otherwise)
        return (
            f"{words.size(crossed)} in all per rank, not {words.size(otherwise)}: no_sync kept {kept} off the network."
        )
    why = " With one micro-step per update there is nothing to save." if accumulation == 1 else ""
    return f"{words.size(crossed)} in all per rank, as much as without no_sync.{why}"


def _dotted(name: str, points: list[Point], tone: Tone) -> Series:
    """A line with a dot at each measurement, as long as the dots stand apart."""
    return Series(name, points, "marked" if len(points) <= _MOST_DOTS_ON_A_LINE else "line", tone)


def _smoothed(name: str, points: list[Point], tone: Tone, look: Look) -> Series:
    """A line; in a long run of the means of its stretches."""
    return Series(name, points if len(points) <= _MANY else chunk_means(points)[0], look, tone)


def _with_means(name: str, points: list[Point]) -> tuple[Series, ...]:
    """A line; in a long run a faint one, with the means of its stretches in front."""
    if len(points) <= _MANY:
        return (Series(name, points),)
    means, length = chunk_means(points)
    return Series(name, points, "faint"), Series(f"mean of {words.plural(length, 'update')}", means)
