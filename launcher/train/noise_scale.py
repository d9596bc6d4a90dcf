"""The gradient noise scale: about how many samples a batch needs before more of them stop paying.

McCandlish, Kaplan, Amodei and others 2018, "An Empirical Model of Large-Batch Training", appendix A.1: the norm of a
small batch's gradient and that of a large one tell the true gradient |G|² from its noise S, without bias; the simple
noise scale is S / |G|², of running means of the two.

A window of B samples is made of parts of b_i samples: the ranks' own gradients, or the micro-steps' on one rank. With
h_i what a part adds to the window's gradient g (so that g is the sum of the h_i, and B/b_i · h_i the part's own mean):

    sum over i of B²/b_i · |h_i|²  =  B · |G|² + parts · S      on average, and
                            |g|²   =      |G|² + S / B          on average.

With equal parts these are the paper's two equations; parts of any size do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from launcher.plan.windows import Window
from launcher.train.accumulation import LoadedWindow
from launcher.train.engines.base import Engine

DECAY = 0.99  # of the running means, per measurement; the first ones are plain means


def parts_of(window: Window) -> int:
    """How many parts of a window are seen: its ranks with samples, or its micro-steps where there is one rank.

    In an exact run they are the virtual ranks with samples, whatever the ranks.
    """
    micro_batches = -(-window.samples // window.micro)
    if window.virtual_ranks is not None:
        return min(window.virtual_ranks, micro_batches)
    return micro_batches if window.world_size == 1 else min(window.world_size, micro_batches)


def weighted_squares(loaded: LoadedWindow, engine: Engine) -> Tensor:
    """This rank's part of the sum over i of B²/b_i · |h_i|², a float64 scalar; zero if its parts were not watched.

    Args:
        loaded: the window, accumulated and reduced.
        engine: knows the |h_i|² of this rank's parts.
    """
    micro_batches = loaded.window.micro_batches(engine.rank)
    if loaded.window.virtual_ranks is not None:
        steps = iter(micro_batches)
        of_virtual = [list(islice(steps, count)) for count in loaded.window.virtual_steps(engine.rank)]
        sizes = [sum(micro_batch.samples for micro_batch in part) for part in of_virtual]
    elif engine.world_size > 1:
        sizes = [sum(micro_batch.samples for micro_batch in micro_batches)]
    else:  # a micro-batch without items was not run, and adds nothing
        ran = [any(micro_batch.items.values()) for micro_batch in loaded.micro_batches]
        sizes = [micro_batch.samples for micro_batch, one in zip(micro_batches, ran, strict=True) if one]
    own = [square / size for square, size in zip(engine.part_squares(), sizes, strict=False) if size]
    if not own:
        return torch.zeros((), dtype=torch.float64, device=engine.device)
    return torch.stack(own).sum() * loaded.window.samples**2


@dataclass(frozen=True)
class NoiseMeasurement:
    """One update's measurement.

    Attributes:
        weighted_squares: the sum over all parts of B²/b_i · |h_i|².
        square: |g|² of the whole window.
        samples: B.
        parts: how many parts there were, at least two.
    """

    weighted_squares: float
    square: float
    samples: int
    parts: int


class NoiseScale:
    """Running means of the gradient's noise and of the true gradient's square."""

    def __init__(self) -> None:
        self._noise = _RunningMean()
        self._true_square = _RunningMean()

    @property
    def means(self) -> list[float]:
        """The running means, as `go_on` takes them up again."""
        return [*self._noise.state, *self._true_square.state]

    def go_on(self, means: Sequence[float]) -> None:
        """Go on from the running means of before."""
        self._noise.state, self._true_square.state = (means[0], means[1]), (means[2], means[3])

    def add(self, measured: NoiseMeasurement) -> float | None:
        """Take a measurement; the noise scale in samples, or None while the gradient cannot be told from noise."""
        noise = (measured.weighted_squares - measured.samples * measured.square) / (measured.parts - 1)
        self._noise.add(noise)
        self._true_square.add(measured.square - noise / measured.samples)
        if self._true_square.value <= 0:
            return None
        return max(0.0, self._noise.value / self._true_square.value)


class _RunningMean:
    """An exponential mean that begins as the plain mean (the bias correction of Kingma and Ba 2015, "Adam")."""

    def __init__(self) -> None:
        self.state = (0.0, 0.0)  # the sum of what was added, and of its weights

    @property
    def value(self) -> float:
        """The mean so far."""
        total, weight = self.state
        return total / weight

    def add(self, value: float) -> None:
        """Take a value."""
        total, weight = self.state
        self.state = (DECAY * total + (1 - DECAY) * value, DECAY * weight + (1 - DECAY))
