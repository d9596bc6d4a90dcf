"""`launcher submit` on a real Slurm whose nodes are this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.processes import processes_with
from tests.slurm.submitted import MORTAL, TWO, Submitted, undisturbed

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
PACED = (*TWO, "task.entry=mortal.py:Paced", "checkpoint.every=1000")  # no checkpoint but those of a signal and the end
ONLINE = "tracking.wandb.mode=online"
CANARY = "c0ffee" * 6 + "c0de"  # as long as a key of W&B


def test_two_nodes_train_to_the_end(it: Submitted) -> None:
    shown = it.launcher("submit", str(MORTAL), "train.updates=20", *TWO, "--run-id", "it", "--dry-run")
    assert not it.path.exists()
    it.submit(*TWO)
    sent = it.cluster.call("scontrol", "write", "batch_script", it.job, "-")
    assert sent.strip() in shown.stdout  # what was shown is what Slurm has
    assert (it.path / "slurm" / "recipe.yaml").read_text().strip() in shown.stdout
    assert shown.stdout.endswith(f"sbatch --parsable {it.path}/slurm/job.sh\n")

    again = it.launcher("submit", str(MORTAL), *TWO, "--run-id", "it")
    assert again.returncode == 73
    assert f"has job {it.job} already" in again.stderr

    followed = it.launcher("logs", "-f", it.job)
    assert "done: 20 updates" in followed.stdout
    assert followed.stdout == it.log == it.launcher("logs", "it").stdout
    assert it.state() == "COMPLETED"
    told = it.launcher("status", it.job).stdout.splitlines()
    assert told[1:] == ["state: done after update 20, 432 samples", f"job: {it.job}, COMPLETED"]
    assert it.launcher("status").stdout.splitlines() == told
    assert (it.status()["state"], it.status()["exit_code"]) == ("done", 0)
    assert "there is nothing to end" in it.launcher("cancel", it.job).stdout
    assert it.result() == undisturbed(it).result()

    held = it.launcher("submit", str(MORTAL), *TWO, "--run-id", "it")
    assert held.returncode == 2
    assert "holds a run already" in held.stderr
    over = it.launcher("submit", str(MORTAL), "train.updates=20", *TWO, "--run-id", "it", "--resume", "auto")
    assert (over.returncode, over.stdout) == (0, f"done: {it.path} has gone to its end\n")


def test_the_time_is_over_and_the_run_is_not(logged: Submitted) -> None:
    """Slurm warns, the run saves and ends, its job is queued again, and it ends as if nothing had been."""
    it = logged
    it.updates = 1000
    it.submit(*PACED, ONLINE, "launch.slurm.time=0:03:00", "launch.slurm.signal_before=60")
    it.wait(lambda: "SIGUSR1: ending at the next update" in it.log if it.rows() else False, 400)
    it.wait(lambda: it.status()["state"] == "preempted")
    assert it.status()["exit_code"] == 75
    stopped = it.status()["update"]
    assert 0 < stopped < it.updates
    it.slow.unlink()
    it.wait_for_end()
    assert it.state() == "COMPLETED", it.log
    assert f"resumed after update {stopped}" in it.log
    assert it.told_once()
    assert it.result() == undisturbed(it, *PACED).result()
    assert not list(processes_with(str(it.path)))


def test_cancelled_by_the_launcher(it: Submitted) -> None:
    it.submit(*PACED)
    it.wait(lambda: len(it.rows()) > 2)
    assert f"job: {it.job}, RUNNING" in it.launcher("status", "it").stdout
    done = it.launcher("cancel", "it")
    assert done.returncode == 0
    assert "state: preempted after update" in done.stdout
    assert it.state() == "FAILED"  # with 75: Slurm has no other word for it
    assert it.status()["exit_code"] == 75
    assert (it.path / "checkpoints" / f"step_{it.status()['update']:08d}").is_dir()
    assert not list(processes_with(str(it.path)))


def test_cancelled_by_slurm(logged: Submitted) -> None:
    """The run has KillWait to save; submitted again, it ends as if nothing had been."""
    it = logged
    it.submit(*PACED, ONLINE)
    it.wait(lambda: len(it.rows()) > 2)
    it.cluster.call("scancel", it.job)
    it.wait(lambda: it.status()["state"] != "running" and it.state() == "CANCELLED")
    assert (it.status()["state"], it.status()["exit_code"]) == ("preempted", 75)
    assert (it.path / "checkpoints" / f"step_{it.status()['update']:08d}").is_dir()
    assert not list(processes_with(str(it.path)))
    it.slow.unlink()
    it.submit(*PACED, ONLINE, "--resume", "auto")
    it.wait_for_end()
    assert it.state() == "COMPLETED", it.log
    assert it.told_once()
    assert it.result() == undisturbed(it, *PACED).result()


def test_a_job_that_waits_is_cancelled_at_once(it: Submitted) -> None:
    it.submit(*TWO, "launch.slurm.options={hold: true}")
    assert f"job: {it.job}, PENDING, JobHeldUser" in it.launcher("status", "it").stdout
    assert "has printed nothing yet" in it.launcher("logs", "it").stderr
    assert f"job: {it.job}, CANCELLED" in it.launcher("cancel", "it").stdout


def test_a_rank_that_dies_on_one_node_is_started_again_on_all(it: Submitted) -> None:
    it.slow.unlink()
    it.submit(*TWO, KILL="1:25")
    it.wait_for_end()
    assert it.state() == "COMPLETED", it.log
    assert "going on after update 8 (tries left without progress: 2)" in it.log
    assert it.result() == undisturbed(it).result()


def test_a_failure_is_not_queued_again(it: Submitted) -> None:
    it.slow.unlink()
    it.submit(*TWO, "launch.restarts=0", POISON="30")
    it.wait_for_end()
    assert it.state() == "FAILED"
    assert (it.status()["state"], it.status()["exit_code"]) == ("failed", 3)
    assert "Restarts=0" in it.cluster.call("scontrol", "show", "job", it.job)


def test_a_launcher_that_is_killed_ends_the_run_on_all_nodes(it: Submitted) -> None:
    it.submit(*PACED)
    it.wait(lambda: len(it.rows()) > 2)
    launchers = [pid for pid in processes_with(f"{it.path}/slurm/recipe.yaml") if _node_of(pid) == "1"]
    assert launchers
    for pid in launchers:
        os.kill(pid, 9)
    it.wait_for_end()
    assert it.state() == "FAILED"
    assert "launcher: The launcher of another machine has died (process " in it.log
    assert (it.status()["state"], it.status()["exit_code"]) == ("failed", 3)
    assert it.status()["failure"]["exception"].startswith("the launcher of another machine has died (process")
    assert not list(processes_with(str(it.path)))


def _node_of(pid: int) -> str:
    told = dict(item.partition("=")[::2] for item in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return told.get("SLURM_NODEID", "") if "launcher" in command else ""


def test_what_slurm_refuses_leaves_nothing(it: Submitted) -> None:
    done = it.launcher("submit", str(MORTAL), *TWO, "launch.slurm.partition=moon", "--run-id", "it")
    assert done.returncode == 2
    assert done.stderr.startswith("launcher: sbatch refuses: sbatch: error: ")
    assert "invalid partition specified: moon" in done.stderr
    assert not it.path.exists()


def test_a_secret_travels_by_the_environment_alone(it: Submitted, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import os\nprint('key', os.environ.get('WANDB_API_KEY', '')[:6])\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "script: {path: train.py}\nbatch: {global: 4, micro: 4}\ntrain: {updates: 1}\nlaunch: {device: cpu}\n"
    )
    it.submit(recipe=recipe, WANDB_API_KEY=CANARY)
    it.wait_for_end()
    assert it.state() == "COMPLETED", it.log
    assert "key c0ffee" in (it.path / "logs" / "rank_0.log").read_text()
    assert "#SBATCH --no-requeue" in it.cluster.call("scontrol", "write", "batch_script", it.job, "-")
    assert CANARY not in it.cluster.call("scontrol", "show", "job", it.job, "--details")
    for path in it.path.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
