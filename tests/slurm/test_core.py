"""The core of what Slurm is for, quick enough for every change: the other tests beside it are long."""

from __future__ import annotations

import pytest

from tests.slurm.submitted import TWO, Submitted, undisturbed


@pytest.mark.timeout(240)
def test_a_job_of_two_nodes_is_queued_again_and_goes_on(logged: Submitted) -> None:
    """It is queued again in the middle, resumes, and ends with the bits of a run that was never disturbed."""
    it = logged
    settings = ("task.entry=mortal.py:Paced", "checkpoint.every=1000")
    it.submit(*TWO, *settings, "tracking.wandb.mode=online")
    it.wait(lambda: len(it.rows()) > 2)
    it.cluster.call("scontrol", "requeue", it.job)
    it.wait(lambda: it.status()["state"] == "preempted")
    stopped = it.status()["update"]
    it.slow.unlink()
    it.wait_for_end()
    assert it.state() == "COMPLETED", it.log
    assert f"resumed after update {stopped}" in it.log
    assert it.told_once()
    assert it.result() == undisturbed(it, *settings).result()
