"""Losses that do not add up: means of means, sums taken for means, losses of a sample that see the others."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.rundir.proof import LossValues
from launcher.train.proof.bench import Bench
from launcher.train.proof.loss_shape import SETS, Values, values_of
from launcher.train.proof.suspects import ALL_OFF, Finding
from launcher.words import number

_COUNT = "Write Task.items(batch) so that it returns how many the mean is over, or return Loss(sum, 'sum')"


def items(bench: Bench) -> Finding | None:
    """Items that are others when the same samples are counted together."""

    def counted_as_one() -> dict[str, int]:
        window = bench.loaded.window
        return dict(bench.batch(range(window.first, window.first + window.samples)).items)

    if not bench.passes.losses.count_items:
        return None
    split = dict(zip(bench.passes.losses.names, bench.loaded.totals, strict=True))
    whole = bench.ranks.of_first(counted_as_one)
    wrong = tuple(name for name in split if split[name] != whole[name])
    if not wrong:
        return None
    told = ", ".join(f"{name} {split[name]:,} and {whole[name]:,}" for name in wrong)
    return Finding(
        "loss",
        "Task.items counts more, or fewer, when the same samples are one batch",
        f"the window's items, counted by micro-batch and as one batch: {told}",
        "Count what each sample brings, without the padding that others make necessary",
        wrong,
    )


def losses(bench: Bench, of_window: tuple[LossValues, ...]) -> list[Finding]:
    """The losses that do not add up.

    Args:
        bench: the bench.
        of_window: the window's losses both ways, with everything off that can be.
    """
    found = bench.ranks.of_first(lambda: list(_by_groups(bench)))
    named = {place for finding in found for place in finding.places}
    return found + [
        Finding(
            "loss",
            f"the loss {loss.name} of the window depends on how it is split",
            f"accumulated it is {number(loss.accumulated, 8)}, of one batch {number(loss.one_batch, 8)}",
            "A loss must be a mean over items that Task.items counts, or a sum, and see one sample at a time",
            (loss.name,),
        )
        for loss in of_window
        if loss.name not in named and not _agree(loss, bench.tolerance)
    ]


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
    of_batches = {name: batch.items for name, batch in batches.items()}
    for name, values in values_of(forward, of_batches).items():
        if not values.adds_up_as(values.reduction, bench.tolerance):
            yield _wrong(name, values, size, bench.tolerance)


def _wrong(name: str, values: Values, size: int, tolerance: float) -> Finding:
    groups = f"three groups of {size} samples" if size > 1 else "three samples"
    together = f"their losses are {_listed(values, 'ABC')}, in pairs {_listed(values, SETS[3:])}"
    if values.reduction == "mean" and values.adds_up_as("sum", tolerance):
        finding = f"the loss {name} is a sum, and is taken for a mean"
        return Finding("loss", finding, f"{groups}: {together}", "Return Loss(value, 'sum'), or a mean", (name,))
    if values.reduction == "sum" and values.adds_up_as("mean", tolerance):
        finding = f"the loss {name} says that it is a sum, and is a mean"
        return Finding("loss", finding, f"{groups}: {together}", "Return the mean itself, or the sum", (name,))
    weights = values.hidden_weights()
    if weights and values.reduction == "mean":
        counted = " : ".join(number(values.items[group] / values.items["A"], 3) for group in "ABC")
        weighed = " : ".join(number(weight, 3) for weight in weights)
        return Finding(
            "loss",
            f"the loss {name} is a mean over something else than is counted, so that the window gets a mean of means",
            f"{groups} weigh {weighed} in the loss of two of them, and count {counted} items",
            _COUNT,
            (name,),
        )
    return Finding(
        "loss",
        f"the loss {name} of a sample depends on the samples beside it",
        f"{groups}: {together}, which no weights of the groups explain",
        "Mask what padding adds, and take nothing over the micro-batch but the mean",
        (name,),
    )


def _listed(values: Values, batches: str | tuple[str, ...]) -> str:
    return ", ".join(number(values.of[batch], 5) for batch in batches)
