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
        communication: seconds that what an update hands to the network takes.
        every_step: whether the engine hands it over in every micro-step, so that no K hides it.
    """

    micro_seconds: float
    accumulation: int
    communication: float
    every_step: bool = False

    @property
    def computing(self) -> float:
        """Seconds of computing in an update."""
        return self.accumulation * self.micro_seconds

    @property
    def share(self) -> float:
        """The part of an update, from 0 to 1, that goes by in the network, where nothing overlaps."""
        return self.communication / (self.communication + self.computing)

    @property
    def balanced(self) -> float | None:
        """The K, unrounded, whose computing takes as long as the network; None where there is none."""
        return None if self.every_step else self.communication / self.micro_seconds

    @property
    def hidden_from(self) -> int | None:
        """The smallest K whose computing takes as long as the network: the network is no more than half of an update,
        and none of it where it goes on beside the computing."""
        return None if self.balanced is None else max(1, math.ceil(self.balanced))

    @property
    def small_from(self) -> int | None:
        """The smallest K at which the network is less than a tenth of an update, though nothing overlaps."""
        return None if self.balanced is None else max(1, math.floor(self.balanced * (1 / SMALL - 1)) + 1)


def bus_bandwidth(message_bytes: int, seconds: float, world_size: int) -> float:
    """Bits per second that each rank sends in an all-reduce: 2(W − 1)/W times the message."""
    return 8 * message_bytes * 2 * (world_size - 1) / world_size / seconds
