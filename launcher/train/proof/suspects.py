"""What can make an accumulated gradient another than that of one batch, each with the test that tells.

BatchNorm and random numbers can be switched off: they are suspects by the layers that have them, and guilty if the
error goes when they are off. The others show when everything is off that can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from launcher.recipe.schema import Backward
from launcher.rundir.proof import Cause, Kind
from launcher.train.accumulation import MicroBatchData
from launcher.train.guard import checksum, who_differs
from launcher.train.proof.batchnorm import statistics_layers
from launcher.train.proof.bench import Bench, micro_batches
from launcher.train.proof.chance import who_draws
from launcher.train.proof.comparison import difference
from launcher.train.proof.switches import Switches

ALL_OFF = Switches(batch_statistics=False, chance=False)


@dataclass(frozen=True)
class Finding:
    """What a test found: `Cause` without the errors."""

    kind: Kind
    finding: str
    evidence: str
    cure: str
    places: tuple[str, ...] = ()

    def as_cause(self, error_with: float | None = None, error_without: float | None = None) -> Cause:
        """The finding as a cause, with the errors of the window while it is on and when it is off."""
        return Cause(
            kind=self.kind,
            finding=self.finding,
            places=self.places,
            evidence=self.evidence,
            error_with=error_with,
            error_without=error_without,
            cure=self.cure,
        )


def batchnorm(bench: Bench) -> Finding | None:
    """Layers that take their statistics from a micro-batch."""
    layers = tuple(statistics_layers(bench.engine.model))
    if not layers:
        return None
    return Finding(
        "batchnorm",
        "BatchNorm takes its statistics from one micro-batch, not from the window",
        "its statistics were frozen on both sides",
        "Use GroupNorm or LayerNorm. On GPUs, parallel.sync_batchnorm=true takes them from one micro-step of all ranks",
        layers,
    )


def randomness(bench: Bench) -> Finding | None:
    """Modules that draw random numbers, and what other numbers make of a gradient."""
    return bench.ranks.of_first(lambda: _randomness_on_first(bench))


def _randomness_on_first(bench: Bench) -> Finding | None:
    batch = _first_micro_batch(bench)
    drawing = who_draws(bench.engine.model, lambda: bench.passes.forward(bench.engine, batch))
    if not drawing:
        return None
    seed = bench.passes.seed
    one, again, other = (bench.alone([batch], seed=number).gradient for number in (seed, seed, seed + 1))
    return Finding(
        "randomness",
        "random numbers are drawn for each micro-batch anew, as dropout does",
        f"the same micro-batch with the same seed twice: gradients differ by {difference(again, one):.1e}; with "
        f"another seed: by {difference(other, one):.1e}; then every draw was replaced by its mean on both sides",
        "Dropout is meant to be random, and harmless; to compare with one batch exactly, set its rate to 0",
        drawing,
    )


def data(bench: Bench) -> Finding | None:
    """Batches that are others when they are made again."""

    def makes_another() -> bool:
        batch = _first_micro_batch(bench)
        return _fingerprint([batch]) != _fingerprint([_first_micro_batch(bench)])

    if not bench.ranks.of_first(makes_another):
        return None
    return Finding(
        "data",
        "the same samples make another batch each time",
        "a micro-batch was made twice, each sample with random numbers of its own, and its tensors differ",
        "Draw a sample's random numbers in the data's __getitem__, from Python's, numpy's or torch's own generator; "
        "not in Task.collate, and not from a generator of your own",
    )


def work_of_ranks(bench: Bench) -> Finding | None:
    """Ranks that make something else of the same samples."""
    batch = _first_micro_batch(bench)
    batches = bench.ranks.gather(_fingerprint([batch]))
    if len(set(batches)) > 1:
        return Finding(
            "work of ranks",
            "the ranks do not see the same data",
            f"every rank made the same micro-batch: {who_differs(batches)}",
            "Let the task give every rank the same data; the plan deals it out",
        )
    alone = bench.alone([batch], ALL_OFF)
    measured = (_norm(alone.gradient.values()), *alone.losses)
    of_ranks = bench.ranks.gather(measured)
    if all(
        _close(mine, first, bench.tolerance)
        for other in of_ranks
        for mine, first in zip(other, of_ranks[0], strict=True)
    ):
        return None
    return Finding(
        "work of ranks",
        "the ranks make something else of the same samples",
        "every rank took the same micro-batch with the same parameters and the same seed: "
        + who_differs([hash(numbers) for numbers in of_ranks]),
        "Let the model and the loss not depend on RANK or on anything else that differs from process to process",
    )


def kernels(bench: Bench) -> Finding | None:
    """Gradients that are others each time, though nothing else is."""
    return bench.ranks.of_first(lambda: _kernels_on_first(bench))


def _kernels_on_first(bench: Bench) -> Finding | None:
    batch = _first_micro_batch(bench)

    def twice() -> float:
        one, again = (bench.alone([batch], ALL_OFF).gradient for _ in range(2))
        return difference(again, one)

    spread = twice()
    if spread <= bench.tolerance:
        return None
    evidence = f"the same micro-batch with the same seed twice: gradients differ by {spread:.1e}"
    with_deterministic, refused = _deterministically(twice)
    if refused or with_deterministic <= bench.tolerance:
        told = refused or f"with deterministic kernels only by {with_deterministic:.1e}"
        return Finding(
            "kernels",
            "kernels that are not deterministic give another gradient each time",
            f"{evidence}; {told}",
            "Call torch.use_deterministic_algorithms(True) in the task, and replace the operations that it refuses",
        )
    return Finding(
        "state",
        "something else than the samples and the seed goes into the gradient",
        f"{evidence}; with deterministic kernels still by {with_deterministic:.1e}",
        "Look for what the model or the loss keeps from one forward pass to the next: a counter, a moving average",
    )


def editions(bench: Bench) -> Finding | None:
    """Losses that are written in two ways which do not agree."""
    backward = bench.plan.recipe.multitask.backward
    if backward == "joint":
        return None

    editions_compared: tuple[Backward, ...] = (backward, "joint")

    def apart() -> float:
        batch = _first_micro_batch(bench)
        both = [
            bench.passes.alone(bench.engine, bench.loaded.window, [batch], ALL_OFF, edition).gradient
            for edition in editions_compared
        ]
        return difference(*both)

    found = bench.ranks.of_first(apart)
    if found <= bench.tolerance:
        return None
    return Finding(
        "editions",
        f"multitask.backward={backward} does not give the gradient of joint: Task.loss gives other losses than "
        "Task.trunk and Task.heads",
        f"one micro-batch on one rank, in both editions: gradients differ by {found:.1e}",
        "Let both give the same losses, or write only one of them",
    )


def _first_micro_batch(bench: Bench) -> MicroBatchData:
    """The first micro-batch of the window that has items."""
    window = bench.loaded.window
    batches = (bench.batch(range(part.first, part.first + part.samples)) for part in micro_batches(window))
    return next(batch for batch in batches if any(batch.items.values()))


def _deterministically(measure: Callable[[], float]) -> tuple[float, str]:
    """What is measured with deterministic kernels only, and what torch says if it has none."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        return measure(), ""
    except RuntimeError as error:
        return math.nan, str(error).partition(". ")[0]
    finally:
        torch.use_deterministic_algorithms(before)


def _fingerprint(batches: Sequence[MicroBatchData]) -> int:
    """A number that depends on every value of some batches."""
    return hash(tuple(_of_leaf(leaf) for batch in batches for leaf in tree_leaves(batch.data)))


def _of_leaf(leaf: Any) -> object:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), int(checksum(leaf.detach()))
    return leaf if isinstance(leaf, int | float) else None


def _norm(gradients: Iterable[Tensor]) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(gradient.double())) for gradient in gradients))


def _close(one: float, other: float, tolerance: float) -> bool:
    return abs(one - other) <= tolerance * max(abs(one), abs(other)) or (math.isnan(one) and math.isnan(other))
