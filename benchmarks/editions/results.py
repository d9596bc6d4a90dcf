"""RESULTS.md: the tables and the picture, with what they say and where they were measured."""

from __future__ import annotations

from datetime import date
from textwrap import dedent

from benchmarks.editions.found import Found, peak_table, time_table
from benchmarks.editions.work import HEAD_LAYERS, MICRO_STEPS, TRUNK_LAYERS, WIDTH
from benchmarks.machine import this_machine


def results_page(found: Found, micro: int, rounds: int, command: str, picture: str) -> str:
    """The page.

    Args:
        found: what was measured.
        micro: samples per micro-step.
        rounds: how often every way was timed.
        command: how to measure it again.
        picture: file name of the picture.
    """
    return "\n\n".join(
        [
            dedent(_HEAD).format(
                command=command,
                machine=this_machine(),
                day=f"{date.today():%d %B %Y}",
                trunk=TRUNK_LAYERS,
                head=HEAD_LAYERS,
                width=WIDTH,
                steps=MICRO_STEPS,
                micro=micro,
            ),
            f"![Peak memory over the number of losses]({picture})",
            "## Peak memory, MiB",
            peak_table(found),
            "## Time",
            dedent(_TIME).format(rounds=rounds),
            "The gradient: every forward and backward of the window.",
            time_table(found, lambda times: times.gradient),
            "The update: the gradient and the optimizer step (AdamW, one rank, nothing to reduce).",
            time_table(found, lambda times: times.update) + "\n",
        ]
    )


_HEAD = """\
    # What the editions of the backward cost

    `{command}`, on {machine}, {day}.

    Several losses go backward in one of three editions, which give the same gradient: `joint` adds them and goes
    backward once (1), `sequential` takes each backward before the next is computed (2), `shared` takes the heads
    backward in turn on the detached output of their trunk, then the trunk once (3). A task gives each loss a forward
    pass of its own (`Task.loss`), or one to all of them (`Task.trunk` and `Task.heads`).

    One window of {steps} micro-steps of {micro:,} samples through `launcher.train.accumulation`, one rank, one thread:
    a trunk of {trunk} layers (linear and GELU, {width} wide) and a head of {head} for each loss, whose activations are
    far larger than their parameters. Memory is that of a fresh process: by how much its resident memory rises at most
    above what it is before the window, when the model and its data are there and gradients are not. The C library
    gives large blocks back as soon as they are freed (`MALLOC_MMAP_THRESHOLD_`), so that tensors are what is seen."""

_TIME = """\
    CPU time of the one thread. Edition 1 in milliseconds, the others as multiples of it with the same forward: medians
    over the rounds, {rounds} in all, in each of which the editions take turns in one process."""
