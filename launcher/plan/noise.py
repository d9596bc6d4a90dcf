"""What the gradient noise scale says of the global batch.

McCandlish, Kaplan, Amodei and others 2018, "An Empirical Model of Large-Batch Training": far below the noise scale,
twice the batch needs about half the updates; far above it, about as many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NEAR = 2.0  # a measurement is no more exact than that, and the change from one side to the other is slow
_DIGITS = 2  # of a noise scale that are worth writing down

_MEANINGS = {
    "below": "a larger batch still saves updates nearly in proportion",
    "near": "about here more samples per update begin to pay less",
    "above": "more samples per update buy little",
}


@dataclass(frozen=True)
class BatchNoise:
    """A global batch beside the noise scale.

    Attributes:
        global_batch: samples per update.
        noise_scale: in samples.
    """

    global_batch: int
    noise_scale: float

    @property
    def side(self) -> Literal["below", "near", "above"]:
        """On which side of the noise scale the batch is; near is within a factor of 2."""
        if self.global_batch * NEAR < self.noise_scale:
            return "below"
        return "above" if self.global_batch > self.noise_scale * NEAR else "near"

    @property
    def samples(self) -> int:
        """The noise scale to two digits, at least one sample."""
        whole = max(1, round(self.noise_scale))
        return round(whole, _DIGITS - len(str(whole)))

    @property
    def place(self) -> str:
        """Where the batch is, as `below it`."""
        return "within a factor of 2 of it" if self.side == "near" else f"{self.side} it"

    @property
    def meaning(self) -> str:
        """What a larger batch would bring."""
        return _MEANINGS[self.side]

    @property
    def sentence(self) -> str:
        """All of it in words, without a full stop."""
        samples = "sample" if self.samples == 1 else "samples"
        return (
            f"about {self.samples:,} {samples}; the global batch of {self.global_batch:,} is {self.place}: "
            f"{self.meaning}"
        )

    @property
    def setting(self) -> str:
        """What to give the next run, so that its plan says the same."""
        return f"noise_scale.measured={self.samples}"
