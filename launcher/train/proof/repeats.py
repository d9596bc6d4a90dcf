"""What should be the same when it is done again: batches, and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from launcher.train.accumulation import MicroBatchData
from launcher.train.guard import checksum
from launcher.train.proof.bench import Bench
from launcher.train.proof.comparison import difference
from launcher.train.proof.finding import Finding, first_micro_batch
from launcher.train.proof.passes import Way
from launcher.train.proof.switches import ALL_OFF
from launcher.words import number


def data(bench: Bench) -> Finding | None:
    """Batches that are others when they are made again of the same samples."""
    return bench.ranks.of_first(lambda: _data(bench))


def _data(bench: Bench) -> Finding | None:
    what = "its tensors differ"
    if fingerprint(first_micro_batch(bench)) != fingerprint(first_micro_batch(bench)):
        return Finding(
            "data",
            "the same samples are others when they are asked for again",
            f"a micro-batch was loaded twice, each sample with the same seed both times: {what}",
            "Let the data draw a sample's random numbers from Python's, numpy's or torch's own generator",
        )
    seed = bench.passes.seed
    one, other = (bench.samples.collated(bench.loaded.window, number) for number in (seed, seed + 1))
    if fingerprint(one) == fingerprint(other):
        return None
    return Finding(
        "data",
        "Task.collate draws random numbers, so that samples depend on the batch that they are in",
        f"the same samples were collated with two seeds: {what}",
        "Draw the random numbers of a sample where the sample is made, in the data's __getitem__",
        ("Task.collate",),
    )


def gradients(bench: Bench) -> Finding | None:
    """Gradients that are others when a micro-batch is taken again with the same seed."""
    return bench.ranks.of_first(lambda: _kernels(bench) or _state(bench))


def _kernels(bench: Bench) -> Finding | None:
    batch = first_micro_batch(bench)

    def spread() -> float:
        one, again = (bench.alone([batch], ALL_OFF).gradient for _ in range(2))
        return difference(again, one)

    found = spread()
    if found <= bench.tolerance:
        return None
    evidence = f"the same micro-batch was taken twice with the same seed: gradients differ by {number(found, 2)}"
    left, refused = _deterministically(spread)
    if refused or left <= bench.tolerance:
        return Finding(
            "kernels",
            "kernels that are not deterministic give another gradient each time",
            f"{evidence}; {refused or f'with deterministic kernels only by {number(left, 2)}'}",
            "Call torch.use_deterministic_algorithms(True) in the task, and replace the operations that it refuses",
        )
    return _keeps_something(bench.engine.model, f"{evidence}, and with deterministic kernels by {number(left, 2)}")


def _state(bench: Bench) -> Finding | None:
    batch = first_micro_batch(bench)
    once = bench.alone([batch], ALL_OFF).gradient
    in_a_row = bench.alone([batch, batch], ALL_OFF, Way(in_a_row=True)).gradient
    found = difference(in_a_row, once)
    if found <= bench.tolerance:
        return None
    evidence = f"the same micro-batch was taken twice in a row: the mean of the gradients differs by {number(found, 2)}"
    return _keeps_something(bench.engine.model, evidence)


def _keeps_something(model: nn.Module, evidence: str) -> Finding:
    """A finding whose suspects are the model's buffers, but those of BatchNorm, which were frozen."""
    buffers = [
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        if not isinstance(module, _BatchNorm)
        for name, _ in module.named_buffers(recurse=False)
    ]
    return Finding(
        "state",
        "the model or the loss keeps something from one forward pass to the next, and it goes into the gradient",
        evidence,
        "Look for a counter, a moving average or a buffer that a forward pass changes",
        tuple(buffers),
    )


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


def fingerprint(batch: MicroBatchData) -> int:
    """A number that depends on every value of a batch."""
    return hash(tuple(_of_leaf(leaf) for leaf in tree_leaves(batch.data)))


def _of_leaf(leaf: Any) -> object:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), int(checksum(leaf.detach()))
    return leaf if isinstance(leaf, int | float) else None
