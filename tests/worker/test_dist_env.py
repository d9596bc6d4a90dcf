"""A rank knows its place by what torchrun says, or what is said in its place."""

from __future__ import annotations

from launcher.worker.dist_env import DistEnv, rank_variables


def test_a_rank_reads_what_it_is_told() -> None:
    place = DistEnv(rank=3, local_rank=1, world_size=4, local_world_size=2, node="abc")
    told = rank_variables(place, "head", 29400, parent=7)
    assert DistEnv.read(told) == place
    assert (told["MASTER_ADDR"], told["MASTER_PORT"]) == ("head", "29400")
