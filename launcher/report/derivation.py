"""The batch of a plan as a derivation that a reader can check by hand."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

from launcher import words
from launcher.plan.planner import Plan
from launcher.plan.windows import Window
from launcher.report.read import RunRecord


def full_window(plan: Plan) -> Window:
    """A window with the whole global batch."""
    return _window(plan, plan.batch.global_)


def tail_window(plan: Plan) -> Window | None:
    """The short last window of an epoch; None if there is none, or it is not stepped on."""
    tail = plan.length.tail_samples
    return _window(plan, tail) if tail and plan.recipe.batch.tail == "keep" else None


def _window(plan: Plan, samples: int) -> Window:
    batch = plan.batch
    return Window(
        update=0,
        epoch=0,
        first=0,
        samples=samples,
        micro=batch.micro,
        world_size=batch.world_size,
        samples_seen=samples,
        virtual_ranks=plan.recipe.train.exact_ranks,
    )


def equation(plan: Plan) -> tuple[str, str]:
    """The two sides of the batch: the samples of an update, and what they are made of."""
    batch = plan.batch
    since = plan.stages[-1].first_update
    result = words.plural(batch.global_, "sample") + " per update"
    if since:
        result += f" from update {words.count(since + 1)} on"
    if batch.world_size * batch.accumulation * batch.micro == batch.global_:
        ranks, steps = words.plural(batch.world_size, "rank"), words.plural(batch.accumulation, "micro-step")
        return result, f"{ranks} × {steps} × {words.plural(batch.micro, 'sample')}"
    full, rest = divmod(batch.global_, batch.micro)
    made_of = f"{words.plural(full, 'micro-batch')} × {words.plural(batch.micro, 'sample')}"
    return result, f"{made_of} + {words.plural(rest, 'sample')}" if rest else made_of


def dealing(plan: Plan) -> str:
    """How the micro-batches get to the ranks, and when gradients cross the network."""
    batch = plan.batch
    total = words.plural(sum(batch.micro_steps), "micro-batch")
    if batch.world_size == 1:
        return f"One rank takes {total} one after the other, adds up their gradients, and then steps once."
    runs = [(steps, len(list(same))) for steps, same in groupby(batch.micro_steps)]
    uneven = (f"{words.plural(ranks, 'rank')} with {_steps(steps)}" for steps, ranks in runs)
    takes = f"{_steps(batch.accumulation)} each" if len(runs) == 1 else ", ".join(uneven)
    exact = plan.exact_cost
    overlapped = (
        exact.overlapped if exact else plan.recipe.multitask.backward == "joint" and not plan.recipe.batch.halves
    )
    when = "in the backward" if overlapped else "after the last backward"
    return (
        f"The {total} are dealt to {words.plural(batch.world_size, 'rank')}: {takes}. Gradients add up on each rank "
        f"and cross the network once per update, {when} of its last micro-step, the boundary."
    )


def _steps(steps: int) -> str:
    return words.plural(steps, "micro-step") if steps else "none, of weight zero"


def ending(plan: Plan) -> str:
    """What becomes of the samples that do not fill a window; empty if there are none or it is not known."""
    tail = plan.length.tail_samples
    if not tail:
        return ""
    is_or_are = "is" if tail == 1 else "are"
    epoch = "epoch of such windows" if len(plan.stages) > 1 else "epoch"
    if plan.recipe.batch.tail == "drop":
        return f"The {words.plural(tail, 'sample')} left at the end of each {epoch} {is_or_are} dropped."
    return (
        f"The last update of each {epoch} is the tail: the {words.plural(tail, 'sample')} that {is_or_are} left, "
        f"scaled by {words.count(tail)} and not by {words.count(plan.batch.global_)}."
    )


def counted(record: RunRecord) -> str:
    """The batches as they really were, counted from what entered each update; empty before the first."""
    sizes = Counter(record.values("batch/global_samples"))
    if not sizes:
        return ""
    if len(sizes) > 3:
        return f"Counted: between {words.count(min(sizes))} and {words.count(max(sizes))} samples per update."
    said = [f"{words.plural(times, 'update')} with {words.count(size)} samples" for size, times in sizes.most_common()]
    return f"Counted: {', '.join(said)}."
