"""Suspects that can be switched off: guilty if the error goes with them."""

from __future__ import annotations

from launcher.train.proof.batchnorm import statistics_layers
from launcher.train.proof.bench import Bench
from launcher.train.proof.chance import who_draws
from launcher.train.proof.comparison import difference
from launcher.train.proof.finding import Finding, first_micro_batch
from launcher.train.proof.passes import Way
from launcher.words import number


def batchnorm(bench: Bench) -> Finding | None:
    """Layers that take their statistics from a micro-batch."""
    layers = statistics_layers(bench.engine.model)
    if not layers:
        return None
    return Finding(
        "batchnorm",
        "BatchNorm takes its statistics from one micro-batch, not from the window",
        "its statistics were frozen on both sides",
        "Use GroupNorm or LayerNorm. On GPUs, parallel.sync_batchnorm=true takes them from one micro-step of all ranks",
        tuple(f"{name} ({type(layer).__name__})" for name, layer in layers.items()),
    )


def randomness(bench: Bench) -> Finding | None:
    """Modules that draw random numbers, and what other numbers make of a gradient."""
    return bench.ranks.of_first(lambda: _randomness(bench))


def _randomness(bench: Bench) -> Finding | None:
    batch, seed = first_micro_batch(bench), bench.passes.seed
    drawing = who_draws(bench.engine.model, lambda: bench.passes.forward(bench.engine, batch), seed)
    if not drawing:
        return None
    one, same, other = (bench.alone([batch], way=Way(seed=number)).gradient for number in (seed, seed, seed + 1))
    by_seed = number(difference(other, one), 2)
    return Finding(
        "randomness",
        "random numbers are drawn anew in every micro-step, as dropout does",
        f"with another seed the gradient of one micro-batch differs by {by_seed}, and with the same seed by "
        f"{number(difference(same, one), 2)}; then every draw was replaced by its mean on both sides",
        "Dropout is meant to be random, and does no harm; for results that do not depend on the split, set it to 0",
        drawing,
    )
