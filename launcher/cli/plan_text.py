"""A plan as a derivation that a reader can check by hand."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

from rich.table import Table
from rich.text import Text

from launcher.cli.editions_text import editions_table
from launcher.cli.gradient_text import Line, gradient_lines
from launcher.cli.output import lasting_console
from launcher.launch.spec import LaunchSpec
from launcher.plan.editions import EditionRow
from launcher.plan.noise import BatchNoise
from launcher.plan.planner import Plan
from launcher.plan.stages import StagePlan
from launcher.plan.windows import Window
from launcher.plan.worlds import WorldRow
from launcher.words import least_or_most, number, plural

MOST_ROWS = 8
MOST_BOXES = 32


def print_plan(plan: Plan, worlds: Sequence[WorldRow], editions: Sequence[EditionRow], spec: LaunchSpec | None) -> None:
    """Print a plan to the terminal.

    Args:
        plan: the plan.
        worlds: the same recipe on other numbers of ranks.
        editions: the editions that several losses can go backward in.
        spec: the launch, if there is one.
    """
    console = lasting_console()
    topology = plan.topology
    launch = plan.recipe.launch
    more = f"; up to {launch.machines.most} may come and go, and the global batch stays" if launch.elastic else ""
    console.print(
        f"[bold]{plan.recipe.name}[/bold]: {plural(topology.world_size, 'rank')} on {topology.device} "
        f"({plural(topology.nodes, 'machine')} × {topology.nproc_per_node}{more}), by {launch.method}"
    )
    sections = [
        ("Batch", _grid(batch_lines(plan))),
        ("Window (■ reduces gradients, □ does not)", _grid(window_lines(plan))),
        ("Batch schedule", _stages(plan.stages)),
        ("Length", _grid(length_lines(plan))),
        ("Learning rate", _grid(rate_lines(plan))),
        ("Gradients", _grid(gradient_lines(plan))),
        ("Noise of the gradient", _grid(noise_lines(plan))),
        (f"{plural(len(plan.recipe.multitask.losses), 'loss')} (multitask.backward)", editions_table(editions)),
        ("On other numbers of ranks", _worlds(worlds)),
    ]
    for title, table in sections:
        if table.rows:
            console.print(f"\n[bold]{title}[/bold]")
            console.print(table)
    for warning in plan.warnings:
        console.print(Text(f"\nwarning: {warning}", style="yellow"))
    if spec is None:
        by_hand = f"launcher run ... --nodes {plan.topology.nodes} --node-rank R --rendezvous HOST:PORT"
        console.print("\nThe ranks of several machines are started by an engine, or on each by hand:")
        console.print(Text("launcher submit ... --to slurm|kubernetes|skypilot"), soft_wrap=True)
        console.print(Text(by_hand), soft_wrap=True)
        return
    console.print("\n[bold]Command[/bold] (with its environment and files: launcher run ... --dry-run)")
    console.print(Text(shlex.join(spec.argv)), soft_wrap=True)


def batch_lines(plan: Plan) -> Iterator[Line]:
    """From samples per update to micro-steps of each rank, from the end of the batch schedule on."""
    batch, section = plan.batch, plan.recipe.batch
    ranks = plural(batch.world_size, "rank")
    derived = f"{batch.micro} × {batch.accumulation} × {ranks}"
    yield "global batch", f"{batch.global_:,}", _given(plan) if section.global_ else f"= {derived}"
    if plan.found or section.micro == "auto":
        source = _found(plan)
    elif section.micro is None:
        source = f"= {batch.global_} / ({batch.accumulation} × {ranks}), rounded up"
    elif section.micro > batch.micro:
        source = f"batch.micro {section.micro}, but the window has no more"
    else:
        source = "batch.micro"
    yield "micro-batch", f"{batch.micro:,}", source
    count = sum(batch.micro_steps)
    last = f", the last of {batch.smallest_micro_batch}" if batch.smallest_micro_batch != batch.micro else ""
    rounded = ", rounded up" if last else ""
    yield "micro-batches", f"{count:,}", f"= {batch.global_} / {batch.micro}{rounded}{last}"
    yield "micro-steps", least_or_most(batch.micro_steps), f"per rank = {count} / {ranks}"
    yield "check", f"{batch.global_:,}", _check(plan)


def _found(plan: Plan) -> str:
    """Where a micro-batch comes from that follows from what fits."""
    if not plan.found:
        return f"auto: the most that fits, at most {plan.batch.micro:,}; found before the first update"
    newest = plan.found[-1]
    if newest.fits is None:
        return f"halved when memory ran out in update {newest.since + 1:,}"
    even = "" if newest.micro == newest.fits else f"; {newest.micro:,} makes a window's parts equal, or no more of them"
    return f"auto: {newest.fits:,} fit{even}"


def _given(plan: Plan) -> str:
    """Where a given global batch comes from, and since when it holds."""
    since = plan.stages[-1].first_update
    return f"batch.global, from update {since + 1:,} on" if since else "batch.global"


def _check(plan: Plan) -> str:
    """The samples of all micro-batches, added up again."""
    batch = plan.batch
    count = sum(batch.micro_steps)
    if batch.smallest_micro_batch == batch.micro:
        return f"= {count} × {batch.micro} samples"
    return f"= {count - 1} × {batch.micro} + {batch.smallest_micro_batch} samples"


def window_lines(plan: Plan) -> Iterator[Line]:
    """A full window as a picture: a row for each rank, a box for each of its micro-steps; none if it is too large."""
    batch = plan.batch
    if batch.world_size > MOST_ROWS or batch.accumulation > MOST_BOXES:
        return
    virtual = plan.recipe.train.exact_ranks
    window = Window(0, 0, 0, batch.global_, batch.micro, batch.world_size, batch.global_, virtual_ranks=virtual)
    for rank in range(batch.world_size):
        samples = sum(part.samples for part in window.micro_batches(rank))
        boxes = "□" * (max(1, batch.micro_steps[rank]) - 1) + "■"
        if plan.recipe.parallel.abilities.reduces == "micro-step":
            boxes = "■" * batch.accumulation  # a rank with fewer micro-batches fills up with some of weight zero
        yield f"rank {rank}", f"{samples:,}", boxes.rjust(batch.accumulation)


def length_lines(plan: Plan) -> Iterator[Line]:
    """From samples per epoch to updates of the run."""
    length, train = plan.length, plan.recipe.train
    if length.data_samples is None:
        yield "samples", "?", "per epoch: known when the data is opened, or give data.samples"
    else:
        full = length.data_samples // plan.batch.global_
        tail = ""
        if length.tail_samples:
            kept = "kept" if plan.recipe.batch.tail == "keep" else "dropped"
            tail = f" and a tail of {length.tail_samples}, {kept}"
        yield "samples", f"{length.data_samples:,}", "per epoch: data.samples"
        yield "windows", f"{length.updates_per_epoch:,}", f"per epoch = {full} of {plan.batch.global_}{tail}"
    if train.epochs is not None and len(plan.stages) > 1:
        updates = "?" if length.updates is None else f"{length.updates:,}"
        yield "updates", updates, f"train.epochs {train.epochs}, with the batch schedule"
    elif length.updates is None:
        yield "updates", "?", "" if train.epochs is None else f"= windows × {train.epochs} epochs"
    elif train.epochs is not None:
        yield "updates", f"{length.updates:,}", f"= {length.updates_per_epoch} × {train.epochs} epochs"
    elif train.samples is not None:
        yield "updates", f"{length.updates:,}", f"for at least {train.samples:,} samples"
    else:
        yield "updates", f"{length.updates:,}", "train.updates"


def rate_lines(plan: Plan) -> Iterator[Line]:
    """The peak, and where the schedule takes it."""
    rate, scaling = plan.learning_rate, plan.recipe.lr_scaling
    source = "optimizer.lr"
    if scaling.rule != "none":
        ratio = f"{plan.batch.global_}/{scaling.reference_batch}"
        source = f"= {rate.base:g} × {ratio if scaling.rule == 'linear' else f'√({ratio})'} ({scaling.rule})"
    yield "peak", f"{rate.peak:.4g}", source
    schedule = plan.recipe.schedule
    known = rate.updates is not None and (schedule.unit == "updates" or plan.length.data_samples is not None)
    if schedule.warmup:
        yield "warm-up", f"{rate.warmup_updates:,}" if known else "?", "updates, linear"
    if rate.shape == "step":
        drops = ", ".join(f"{drop:,}" for drop in rate.drops) if known else "?"
        lowest = f"{rate.peak * rate.drop_factor ** len(schedule.at):.4g}"
        yield "end", lowest, f"step: × {rate.drop_factor:g} after update {drops}"
    elif rate.shape != "constant":
        yield "end", f"{rate.peak * rate.final:.4g}", f"{rate.shape}"


def noise_lines(plan: Plan) -> Iterator[Line]:
    """The batch beside the noise scale that an earlier run measured; none without one."""
    measured = plan.recipe.noise_scale.measured
    if measured is not None:
        noise = BatchNoise(plan.batch.global_, measured)
        yield "noise scale", number(measured), "samples: noise_scale.measured"
        yield "global batch", f"{noise.global_batch:,}", f"{noise.place}: {noise.meaning}"


def _grid(lines: Iterable[Line]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(min_width=16)
    grid.add_column(justify="right", min_width=8)
    grid.add_column(style="dim")
    for label, value, source in lines:
        grid.add_row(f"  {label}", value, source)
    return grid


def _columns(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="")
    for header in headers:
        table.add_column(header, justify="right")
    return table


def _stages(stages: Sequence[StagePlan]) -> Table:
    """A row for each stage; none where there is one alone, which is the batch above."""
    table = _columns("  from update", "global batch", "micro-steps", "updates", "rate scale")
    for stage in stages if len(stages) > 1 else ():
        table.add_row(
            f"{stage.first_update + 1:,}",
            f"{stage.global_:,}",
            least_or_most(stage.micro_steps),
            "?" if stage.updates is None else f"{stage.updates:,}",
            f"{stage.learning_rate_scale:.4g}",
        )
    return table


def _worlds(rows: Sequence[WorldRow]) -> Table:
    table = _columns("  ranks", "global batch", "micro-steps", "at work", "peak rate")
    for row in rows:
        if row.refusal:
            table.add_row(f"{row.world_size:,}", "-", "-", "-", row.refusal)
            continue
        steps = least_or_most((row.fewest_steps, row.most_steps))
        table.add_row(
            f"{row.world_size:,}", f"{row.global_batch:,}", steps, f"{row.efficiency:.1%}", f"{row.peak_rate:.4g}"
        )
    return table
