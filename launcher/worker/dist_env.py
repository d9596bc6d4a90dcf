"""Who this worker is, as torchrun or accelerate tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.errors import Mistake, RequestError
from launcher.plan.planner import Plan, plan_again

STARTED_BY = "LAUNCHER_STARTED_BY"  # the process that started a rank, where that is no agent of ours


@dataclass(frozen=True)
class DistEnv:
    """The place of one worker among all.

    Attributes:
        rank: among all ranks.
        local_rank: among those of this machine; the index of its GPU.
        world_size: how many ranks there are.
        local_world_size: those of this machine.
        node: the launcher of this machine, where there are several.
    """

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int = 1
    node: str = ""

    @staticmethod
    def read(environ: Mapping[str, str]) -> DistEnv:
        """From what torchrun and the launcher set; alone in the world where they do not."""
        return DistEnv(
            rank=int(environ.get("RANK", "0")),
            local_rank=int(environ.get("LOCAL_RANK", "0")),
            world_size=int(environ.get("WORLD_SIZE", "1")),
            local_world_size=int(environ.get("LOCAL_WORLD_SIZE", "1")),
            node=environ.get("LAUNCHER_NODE", ""),
        )

    def held_against(self, plan: Plan) -> Plan:
        """The plan, if it is one for this world; of an elastic run, the plan for it.

        Raises:
            RequestError: another number of ranks was started than was planned for.
        """
        topology = plan.topology
        if plan.recipe.launch.elastic and self.world_size == self._nodes * self.local_world_size:
            return plan_again(plan, topology.model_copy(update=self._places))
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
        return plan

    @property
    def _nodes(self) -> int:
        return self.world_size // self.local_world_size

    @property
    def _places(self) -> dict[str, int]:
        return {"nodes": self._nodes, "nproc_per_node": self.local_world_size}


def rank_variables(place: DistEnv, host: str, port: int, parent: int) -> dict[str, str]:
    """What torchrun tells a rank in its environment, for one that something else starts.

    Args:
        place: of the rank.
        host: the machine of rank 0, where the ranks meet.
        port: the port there.
        parent: the process that starts it, without which it is to end.
    """
    return {
        "RANK": str(place.rank),
        "LOCAL_RANK": str(place.local_rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
        "LAUNCHER_NODE": place.node,
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
        STARTED_BY: str(parent),
    }
