"""`launcher sweep --to slurm` on a real Slurm: every task of the array has a run of its own, and its own fate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.processes import launcher, wait_until
from tests.slurm.cluster import Cluster
from tests.slurm.submitted import MORTAL

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_an_array_of_runs(jobs: Cluster, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two at a time. One is queued again by Slurm, one by its own script, and each resumes its own run and no other."""
    slow = tmp_path_factory.mktemp("pace") / "slow"
    slow.touch()
    environment = {**jobs.environment, "SLOW": str(slow)}
    recipe = runs / "array.yaml"
    recipe.write_text(
        f"extends: {MORTAL}\nname: array\ntrain: {{updates: 300}}\nlaunch: {{nproc_per_node: 1}}\n"
        "checkpoint: {every: 4}\ntask: {entry: TASK}\n".replace("TASK", f"{MORTAL.parent}/mortal.py:Paced")
    )
    grid = ("sweep", str(recipe), "optimizer.lr=0.01,0.02,0.03")

    def sweep(*more: str) -> Any:
        return launcher(*grid, *more, "--to", "slurm", "--runs", str(runs), env=environment, timeout=300)

    shown = sweep("--at-once", "2", "--dry-run")
    folder = runs / "array-sweep"
    assert not folder.exists(), shown.stderr
    done = sweep("--at-once", "2")
    assert done.returncode == 0, done.stderr
    paths = sorted(path for path in folder.iterdir() if path.name.startswith("lr-"))
    array = (paths[0] / "slurm" / "job_id").read_text().strip().partition("_")[0]
    assert [(path / "slurm" / "job_id").read_text() for path in paths] == [f"{array}_{task}\n" for task in range(3)]
    sent = jobs.call("scontrol", "write", "batch_script", array, "-")
    assert sent.strip() in shown.stdout  # what was shown is what Slurm has
    for path in paths:
        assert (path / "slurm" / "recipe.yaml").read_text().strip() in shown.stdout

    def states() -> list[str]:
        told = jobs.call("squeue", "-h", "-r", "-t", "all", "-j", array, "-o", "%K %T").splitlines()
        return [state for _, state in sorted(line.split() for line in told)]

    def ask(command: str, task: int) -> str:
        return launcher(command, f"{array}_{task}", "--runs", str(folder), env=environment).stdout

    wait_until(lambda: all(len(rows(path)) > 5 for path in paths[:2]), 240)
    assert states() == ["RUNNING", "RUNNING", "PENDING"]
    assert f"job: {array}_0, RUNNING" in ask("status", 0)
    assert f"job: {array}_2, PENDING" in ask("status", 2)
    again = sweep()
    assert again.stdout.splitlines()[-1] == "nothing is left to submit (--results shows how the runs stand)"

    jobs.call("scontrol", "requeue", f"{array}_0")  # the last one takes its place; the array's own number is its job's
    wait_until(lambda: len(rows(paths[2])) > 5, 240)
    jobs.call("scancel", "--signal=USR1", "--batch", f"{array}_2")  # as at the end of its time
    wait_until(lambda: "resumed after update " in (paths[0] / "slurm" / "output.log").read_text(), 240)
    jobs.call("scancel", f"{array}_1")  # it would have the place of the one that was queued again last
    wait_until(lambda: "resumed after update " in (paths[2] / "slurm" / "output.log").read_text(), 240)
    assert "Restarts=0" in jobs.call("scontrol", "show", "job", f"{array}_1")
    slow.unlink()
    wait_until(lambda: states() == ["COMPLETED", "CANCELLED", "COMPLETED"], 240)
    for path, restarts in ((paths[0], 1), (paths[2], 1)):
        assert [row["train/global_step"] for row in rows(path)] == list(range(1, 301))
        assert (path / "slurm" / "output.log").read_text().count("resumed after update") == restarts

    done = sweep()
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["done", "done", "job", "runs"]
    wait_until(lambda: json.loads((paths[1] / "status.json").read_text())["state"] == "done", 240)
    wait_until(lambda: jobs.call("squeue", "-h").strip() == "", 60)
    told = launcher(*grid, "--results", "--runs", str(runs), env=environment).stdout
    assert [row.split()[1:3] for row in told.splitlines() if row.strip().startswith("0.0")] == [["done", "300"]] * 3
