"""Who this worker is, as torchrun or accelerate tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.errors import Mistake, RequestError
from launcher.plan.topology import Topology


@dataclass(frozen=True)
class DistEnv:
    """The place of one worker among all.

    Attributes:
        rank: among all ranks.
        local_rank: among those of this machine; the index of its GPU.
        world_size: how many ranks there are.
    """

    rank: int
    local_rank: int
    world_size: int

    @staticmethod
    def read(environ: Mapping[str, str]) -> DistEnv:
        """From RANK, LOCAL_RANK and WORLD_SIZE; alone in the world where they are not set."""
        return DistEnv(
            rank=int(environ.get("RANK", "0")),
            local_rank=int(environ.get("LOCAL_RANK", "0")),
            world_size=int(environ.get("WORLD_SIZE", "1")),
        )

    def check(self, topology: Topology) -> None:
        """Hold the world against the plan.

        Raises:
            RequestError: another number of ranks was started than was planned for.
        """
        if self.world_size != topology.world_size:
            raise RequestError(
                [
                    Mistake(
                        "world size",
                        f"the plan is for {topology.world_size} ranks, but {self.world_size} were started",
                        "Start the command that `launcher run --dry-run` prints, or plan for the ranks that you have",
                    )
                ]
            )
