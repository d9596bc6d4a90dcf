"""Losses that do not add up: means of means, sums taken for means, samples that see each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from launcher.recipe.schema import Backward
from launcher.rundir.proof import LossValues
from launcher.train.accumulation import MicroBatchData
from launcher.train.proof.bench import Bench
from launcher.train.proof.comparison import difference
from launcher.train.proof.finding import Finding, first_micro_batch
from launcher.train.proof.loss_shape import SETS, Values, values_of
from launcher.train.proof.mixing import first_mixing_layer
from launcher.train.proof.passes import Way
from launcher.train.proof.switches import ALL_OFF
from launcher.train.task_losses import ONLY
from launcher.words import number


def editions(bench: Bench) -> Finding | None:
    """Losses that are written in two ways which do not agree."""
    backward = bench.plan.recipe.multitask.backward
    compared: tuple[Backward, ...] = (backward, "joint")

    def apart() -> float:
        batch = first_micro_batch(bench)
        return difference(*(bench.alone([batch], ALL_OFF, Way(backward=edition)).gradient for edition in compared))

    found = bench.ranks.of_first(apart)
    if found <= bench.tolerance:
        return None
    return Finding(
        "editions",
        f"multitask.backward={backward} gives another gradient than joint: Task.loss does not agree with Task.trunk "
        "and Task.heads",
        f"one rank took one micro-batch in both editions: gradients differ by {number(found, 2)}",
        "Let both give the same losses, or write only one of them",
    )


def sums(bench: Bench, of_window: tuple[LossValues, ...]) -> list[Finding]:
    """The losses that do not add up.

    Args:
        bench: the bench.
        of_window: the window's losses both ways, with everything off that can be.
    """
    found = [*_items(bench), *bench.ranks.of_first(lambda: list(_by_groups(bench)))]
    by_loss = {finding.places[0]: finding for finding in reversed(found)}  # the first of each
    for loss in of_window:
        if loss.name not in by_loss and not _agree(loss, bench.tolerance):
            by_loss[loss.name] = _split(loss)
    return [by_loss[name] for name in bench.passes.losses.names if name in by_loss]


def _items(bench: Bench) -> Iterator[Finding]:
    """Items that are more, or fewer, when the same samples are counted as one batch."""
    if not bench.passes.losses.count_items:
        return
    window = bench.loaded.window
    samples = range(window.first, window.first + window.samples)
    whole = bench.ranks.of_first(lambda: dict(bench.batch(samples).items))
    for name, split in zip(bench.passes.losses.names, bench.loaded.totals, strict=True):
        if split != whole[name]:
            yield Finding(
                "items",
                f"Task.items counts other items{_of(name)} when the same samples are one batch",
                f"the window has {split:,} by micro-batch, and {whole[name]:,} as one batch",
                "Count what each sample brings, without the padding that samples beside it make necessary",
                (name,),
            )


def _split(loss: LossValues) -> Finding:
    return Finding(
        "split",
        f"{_the(loss.name)} of the window depends on how it is split",
        f"accumulated it is {number(loss.accumulated, 8)}, of one batch {number(loss.one_batch, 8)}",
        "A loss must be a mean over items that Task.items counts, or a sum, and see one sample at a time",
        (loss.name,),
    )


def _agree(loss: LossValues, tolerance: float) -> bool:
    if loss.accumulated is None or loss.one_batch is None:
        return loss.accumulated == loss.one_batch
    return abs(loss.accumulated - loss.one_batch) <= tolerance * max(abs(loss.accumulated), abs(loss.one_batch))


def _by_groups(bench: Bench) -> Iterator[Finding]:
    """Take three groups of samples alone and in pairs, and see whether their losses add up."""
    window = bench.loaded.window
    size = max(1, min(window.micro // 2, window.samples // 3))
    if 3 * size > window.samples:
        return
    starts = {group: window.first + size * index for index, group in enumerate("ABC")}
    batches = {
        batch: bench.batch([start for group in batch for start in range(starts[group], starts[group] + size)])
        for batch in SETS
    }
    forward = {name: bench.passes.forward(bench.engine, batch, ALL_OFF) for name, batch in batches.items()}
    values = values_of(forward, {name: batch.items for name, batch in batches.items()})
    for name, of_loss in values.items():
        if not of_loss.adds_up_as(of_loss.reduction, bench.tolerance):
            yield _wrong(name, of_loss, size, bench.tolerance) or _mixing(name, of_loss, size, bench, batches)


def _wrong(name: str, values: Values, size: int, tolerance: float) -> Finding | None:
    """A loss that is another kind of number than it is taken for, but still sees one sample at a time."""
    evidence = _told(values, size)
    if values.reduction == "mean" and values.adds_up_as("sum", tolerance):
        cure = "Return Loss(value, 'sum'), or the mean"
        return Finding("sum or mean", f"{_the(name)} is a sum, and is taken for a mean", evidence, cure, (name,))
    if values.reduction == "sum" and values.adds_up_as("mean", tolerance):
        cure = "Return the mean itself, or the sum"
        return Finding("sum or mean", f"{_the(name)} is a mean, and says that it is a sum", evidence, cure, (name,))
    weights = values.hidden_weights()
    if weights is None or values.reduction == "sum":
        return None
    weighed = " : ".join(number(weight, 3) for weight in weights)
    counted = " : ".join(number(values.items[group] / values.items["A"], 3) for group in "ABC")
    return Finding(
        "mean of means",
        f"{_the(name)} is a mean over something else than what is counted: the window gets a mean of means",
        f"{_groups(size)} weigh {weighed} when two of them are one batch, and are counted as {counted}",
        "Write Task.items(batch) so that it returns how many values the mean is over, or return Loss(sum, 'sum')",
        (name,),
    )


def _mixing(name: str, values: Values, size: int, bench: Bench, batches: Mapping[str, MicroBatchData]) -> Finding:
    """A loss of samples that see each other, and the layer where they do."""
    layer = first_mixing_layer(
        bench.engine.model,
        lambda: bench.passes.forward(bench.engine, batches["A"], ALL_OFF),
        lambda: bench.passes.forward(bench.engine, batches["AB"], ALL_OFF),
        size,
        bench.tolerance,
    )
    where = f", from the layer {layer} on" if layer else ""
    return Finding(
        "mixed samples",
        f"{_the(name)} of a sample depends on the samples beside it{where}",
        f"{_told(values, size)}, which no weights explain",
        "Mask what padding adds, and take nothing over the samples of a micro-batch but the mean of their losses",
        (name, layer) if layer else (name,),
    )


def _told(values: Values, size: int) -> str:
    alone, pairs = (", ".join(number(values.of[batch], 5) for batch in part) for part in (SETS[:3], SETS[3:]))
    return f"{_groups(size)} have the losses {alone}, and in pairs {pairs}"


def _groups(size: int) -> str:
    return "three samples" if size == 1 else f"three groups of {size} samples"


def _the(name: str) -> str:
    return "the loss" if name == ONLY else f"the loss {name}"


def _of(name: str) -> str:
    return "" if name == ONLY else f" of the loss {name}"
