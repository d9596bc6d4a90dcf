"""What befalls jobs on a real Slurm: machines that are lost, W&B over all of it, and GPUs that are handed out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import processes_with
from tests.slurm.cluster import Cluster
from tests.slurm.submitted import MORTAL, TWO, Submitted, undisturbed

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.mark.parametrize("place", [0, 1], ids=["the first", "the second"])
def test_a_node_is_lost(logged: Submitted, place: int) -> None:
    """Another takes its place, the run goes on from its last checkpoint, and it is one run of W&B."""
    it = logged
    it.updates = 60
    it.submit(*TWO, "task.entry=mortal.py:Paced", "tracking.wandb.mode=online")
    it.wait(lambda: len(it.rows()) > 9)
    nodes = it.cluster.call("squeue", "-h", "-j", it.job, "-O", "NodeList:200").strip()
    names = it.cluster.call("scontrol", "show", "hostnames", nodes).split()
    lost = names[place]
    it.cluster.lose(lost)
    try:
        it.wait(lambda: "resumed after update" in it.log, 300)
        assert lost not in it.cluster.call("squeue", "-h", "-j", it.job, "-O", "NodeList:200")
        it.slow.unlink()
        it.wait_for_end()
    finally:
        it.cluster.restore(lost)
    assert it.state() == "COMPLETED", it.log
    assert it.told_once()
    assert it.result() == undisturbed(it, "task.entry=mortal.py:Paced").result()
    assert not list(processes_with(str(it.path)))


def test_gpus_are_handed_out(it: Submitted, cluster: Cluster) -> None:
    """One rank for each GPU that the job asks for; which ones those are, Slurm says to the launcher on each machine.

    No GPU is there to train on: the launcher refuses, and the job is not queued again.
    """
    if not cluster.gpus:
        pytest.skip("/dev/tty1 and /dev/tty2, which stand for GPUs, are not on this machine")
    seen = it.runs / "seen"
    (it.runs / "sitecustomize.py").write_text(SEEN.format(seen=str(seen)))
    it.submit(
        "launch.nodes=2",
        "launch.nproc_per_node=auto",
        "launch.device=auto",
        "launch.slurm.gpus_per_node=2",
        recipe=MORTAL,
        PYTHONPATH=f"{it.runs}:{Path.cwd()}",
    )
    it.wait_for_end()
    assert it.state() == "FAILED"
    assert "launch.device: this machine has no GPU. Set launch.device=cpu." in it.log
    told = it.cluster.call("scontrol", "show", "job", it.job)
    assert "TresPerNode=gres:gpu:2" in told
    assert "Restarts=0" in told
    recipe = (it.path / "slurm" / "recipe.yaml").read_text()
    assert "nproc_per_node: 2" in recipe
    assert sorted(seen.read_text().splitlines()) == ["0 0,1", "1 0,1"]


# Python reads this as it starts: what the launchers of the job, and they alone, are told by Slurm.
SEEN = """
import os
if "SLURM_STEP_ID" in os.environ:
    with open({seen!r}, "a") as file:
        file.write(os.environ["SLURM_NODEID"] + " " + os.environ.get("CUDA_VISIBLE_DEVICES", "none") + "\\n")
"""
