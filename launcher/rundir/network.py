"""What the ranks of `launcher doctor` have measured: written by one of each machine, shown by the command line."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from launcher.rundir.layout import RunDirectory, write_atomically

MEASURE = "measure"  # the argument that tells a worker to measure instead of to train
STEP_MARK = "measuring: "  # rank 0 begins a line of its log with it, and says what it is doing


class NetworkMeasured(BaseModel):
    """The network between the ranks of a recipe, and the computing that it stands beside; of the slowest rank.

    Attributes:
        parameters: that are trained.
        bytes_per_update: that a rank hands to the network in each update.
        once_bytes: of an all-reduce that takes as long as what is sent once per update.
        each_bytes: of an all-reduce that takes as long as what is sent in each micro-step.
        latency: seconds of an all-reduce of four bytes; None for one rank, as for those that follow.
        message_bytes: of the all-reduce that was timed.
        message_seconds: that it took.
        micro_samples: of the micro-step that was timed.
        micro_seconds: of its forward and backward.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int
    bytes_per_update: int
    once_bytes: float
    each_bytes: float
    latency: float | None
    message_bytes: int | None
    message_seconds: float | None
    micro_samples: int
    micro_seconds: float

    def write(self, run: RunDirectory) -> None:
        """Leave it in a run directory."""
        write_atomically(run.network, self.model_dump_json(indent=2) + "\n")

    @staticmethod
    def read(run: RunDirectory) -> NetworkMeasured:
        """That of a run directory."""
        return NetworkMeasured.model_validate_json(run.network.read_text(encoding="utf-8"))
