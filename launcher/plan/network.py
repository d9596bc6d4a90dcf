"""What a network costs a recipe: computing against communication, and the K at which accumulation hides it."""

from __future__ import annotations

import math
from dataclasses import dataclass

SMALL = 0.1  # a share of an update's time that nobody minds


@dataclass(frozen=True)
class NetworkCost:
    """An update as it would be, from what was measured.

    Attributes:
        micro_seconds: of a micro-step, forward and backward.
        accumulation: micro-steps per update of the busiest rank, K.
        once: seconds that what is sent once per update takes.
        each: seconds that what is sent in each micro-step takes; it grows with K, as computing does.
    """

    micro_seconds: float
    accumulation: int
    once: float
    each: float = 0.0

    @property
    def computing(self) -> float:
        """Seconds of computing in an update."""
        return self.accumulation * self.micro_seconds

    @property
    def communication(self) -> float:
        """Seconds that what an update hands to the network takes."""
        return self.once + self.accumulation * self.each

    @property
    def share(self) -> float:
        """The part of an update, from 0 to 1, that goes by in the network, where nothing overlaps."""
        return self.communication / (self.communication + self.computing)

    @property
    def balanced(self) -> float | None:
        """The K, unrounded, whose computing takes as long as the network; None where there is none."""
        left = self.micro_seconds - self.each
        return self.once / left if left > 0 else None

    @property
    def hidden_from(self) -> int | None:
        """The smallest K whose computing takes as long as the network: the network is no more than half of an update,
        and none of it where it goes on beside the computing. None where no K does."""
        return None if self.balanced is None else max(1, math.ceil(self.balanced))

    @property
    def small_from(self) -> int | None:
        """The smallest K at which the network is less than a tenth of an update, though nothing overlaps; None where
        it is at none."""
        left = self.micro_seconds / (1 / SMALL - 1) - self.each
        return max(1, math.floor(self.once / left) + 1) if left > 0 else None


def bus_bandwidth(message_bytes: int, seconds: float, world_size: int) -> float:
    """Bits per second that each rank sends in an all-reduce: 2(W − 1)/W times the message."""
    return 8 * message_bytes * 2 * (world_size - 1) / world_size / seconds
