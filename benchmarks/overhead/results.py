"""RESULTS.md: the table, with what it says and where it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from textwrap import dedent

from benchmarks.machine import this_machine
from benchmarks.overhead.case import Case, table
from benchmarks.overhead.work import MICRO, make_model


def results_page(cases: Sequence[Case], pairs: int, command: str) -> str:
    """The page.

    Args:
        cases: what was measured.
        pairs: how often both loops ran in each case.
        command: how to measure it again.
    """
    sizes = dict.fromkeys(case.size for case in cases)
    parameters = {size: sum(parameter.numel() for parameter in make_model(size).parameters()) for size in sizes}
    models = " and ".join(f"{size} ({count:,} parameters)" for size, count in parameters.items())
    updates = " and ".join(f"{size}: {next(case.updates for case in cases if case.size == size)}" for size in sizes)
    head = f"""\
        # What the launcher's loop costs

        `{command}`, on {this_machine()}, {date.today():%d %B %Y}.

        Time per update of `launcher.train.loop` as a user gets it (windows from the plan, metrics.jsonl, the gradient's
        norm, the loss over all ranks; W&B off) against a loop written by hand: DDP with `no_sync` and
        `gradient_as_bucket_view`, fused AdamW, `zero_grad(set_to_none=True)`, nothing read from a tensor, a DataLoader
        whose batches come whole. The models are perceptrons, {models}; two gloo ranks, one thread each; {MICRO} samples
        per micro-step. The data are tensors, which the launcher indexes once per window and the DataLoader once per
        micro-batch.

        Both loops run in turn in the same two processes, {pairs} times each; timed updates per run: {updates}. A ratio
        belongs to two neighbouring runs and is launched / by hand: the median over the pairs, the smallest, the
        largest. Times are medians per update, the first five of a run left out; CPU time is that of both ranks with
        all threads. Items are known from the plan (samples), or the launcher counts them in the data of each window
        and adds the counts over the ranks (counted), as it must for tokens and as the loop by hand never does; what an
        update waited for such a count is beside it. The last column is the distance between the two loops' parameters
        after they saw the same windows, relative to how far the parameters went.

        """
    return dedent(head) + table(cases) + "\n"
