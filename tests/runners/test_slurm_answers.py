"""What the launcher makes of odd answers of Slurm's commands, and what it leaves behind where they refuse.

What stands for the commands are scripts here: real ones do not answer so when they are asked to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.errors import PerhapsTakenError
from launcher.launch.submission import Submission
from launcher.rundir.layout import RunDirectory
from launcher.runners import slurm
from tests.processes import ROOT, clean_environment, launcher, wait_until

MORTAL = str(ROOT / "tests" / "tasks" / "mortal.yaml")
ENDED = 'case "$*" in *%T*) echo "COMPLETED|0:10|1:00|node0";; esac'
SEE = "It may have been taken all the same: see squeue -u $USER."


class Programs:
    """Scripts that stand for Slurm's commands.

    Attributes:
        env: in which they are found.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.env = {"PATH": f"{folder}:{os.environ['PATH']}", "TOLD": str(folder / "told")}

    def write(self, **scripts: str) -> None:
        for name, text in scripts.items():
            path = self._folder / name
            path.write_text(f'#!/bin/bash\necho "{name} $*" >> "$TOLD"\n{text}\n')
            path.chmod(0o755)

    @property
    def told(self) -> list[str]:
        path = self._folder / "told"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path / "programs")


def submit(programs: Programs, runs: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = ("submit", MORTAL, "--to", "slurm", "--run-id", "it", "--runs", str(runs), *more)
    return launcher(*arguments, env=programs.env)


def sweep(programs: Programs, runs: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = ("sweep", MORTAL, "optimizer.lr=0.01,0.02", "--to", "slurm", "--runs", str(runs), *more)
    return launcher(*arguments, env=programs.env)


def test_a_site_may_have_sbatch_say_more(programs: Programs, tmp_path: Path) -> None:
    programs.write(sbatch='echo "Welcome to 4 clusters"\necho 12; echo "4711;west"; echo "Have fun"')
    runs = tmp_path / "runs"
    done = submit(programs, runs)
    assert done.returncode == 0, done.stderr
    assert (runs / "it" / "slurm" / "job_id").read_text() == "4711;west\n"
    assert sweep(programs, runs).returncode == 0
    kept = sorted(path.read_text() for path in (runs / "mortal-sweep").glob("*/slurm/job_id"))
    assert kept == ["4711_0;west\n", "4711_1;west\n"]


def test_what_may_have_been_taken_is_not_withdrawn(programs: Programs, tmp_path: Path) -> None:
    programs.write(sbatch="echo Submitted")
    runs = tmp_path / "runs"
    for done, folder in (
        (submit(programs, runs), runs / "it"),
        (sweep(programs, runs), runs / "mortal-sweep" / "lr-0.01"),
    ):
        said = f"launcher: sbatch has answered 'Submitted', which is no number of a job. {SEE}\n"
        assert (done.returncode, done.stderr) == (3, said)
        assert (folder / "slurm" / "recipe.yaml").exists()
        assert not (folder / "slurm" / "job_id").exists()


def test_so_it_is_where_sbatch_does_not_answer(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.write(sbatch="exec sleep 60")
    for name, value in programs.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "_SLURM", replace(slurm._SLURM, patience=0.5))
    with pytest.raises(PerhapsTakenError) as error:
        slurm.submit(Submission(("sbatch",), {}), RunDirectory(tmp_path))
    assert str(error.value) == f"sbatch has not answered for 0.5 seconds. Is Slurm's controller there? {SEE}"


def files_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_an_earlier_job_had_is_there_again_where_the_next_is_refused(programs: Programs, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    programs.write(sbatch="echo 4711", squeue=ENDED)
    assert submit(programs, runs).returncode == 0
    assert sweep(programs, runs).returncode == 0
    before = files_of(runs)
    programs.write(sbatch="echo no such partition >&2; exit 1")
    for done in (submit(programs, runs, "optimizer.lr=0.5"), sweep(programs, runs, "train.updates=7")):
        assert (done.returncode, done.stderr) == (2, "launcher: sbatch refuses: no such partition.\n")
        assert files_of(runs) == before


def test_a_reason_on_standard_output_is_told(programs: Programs, tmp_path: Path) -> None:
    programs.write(sbatch='echo "Your account has no hours left."; exit 1')
    assert submit(programs, tmp_path).stderr == "launcher: sbatch refuses: Your account has no hours left.\n"


def test_nothing_is_left_of_a_sweep_that_is_refused(programs: Programs, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    programs.write(sbatch="exit 1")
    assert sweep(programs, runs).stderr == "launcher: sbatch refuses: exit code 1.\n"
    assert not runs.exists()
    (runs / "mortal-sweep").mkdir(parents=True)
    (runs / "mortal-sweep" / "lr-0.02").write_text("mine")
    done = sweep(programs, runs)
    said = f"launcher: {runs}/mortal-sweep/lr-0.02 is a file. Move it, or choose another name, or --runs.\n"
    assert (done.returncode, done.stderr) == (2, said)
    assert files_of(runs) == {"mortal-sweep/lr-0.02": "mine"}
    assert [path.name for path in (runs / "mortal-sweep").iterdir()] == ["lr-0.02"]


@pytest.mark.parametrize("command", [["sweep", MORTAL, "optimizer.lr=0.01,0.02"], ["submit", MORTAL]])
def test_ctrl_c_while_sbatch_hangs_leaves_nothing_and_says_so(
    command: list[str], programs: Programs, runs: Path
) -> None:
    programs.write(sbatch="exec sleep 60")
    with subprocess.Popen(
        [sys.executable, "-m", "launcher", *command, "--to", "slurm", "--runs", str(runs / "runs")],
        env=clean_environment(**programs.env),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: programs.told != [], 60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, f"launcher: Interrupted, before sbatch has answered. {SEE}\n")
    assert list(runs.glob("runs/*")) == []


STATES = """
for one in "$@"; do case $one in --jobs=*) job=${one#--jobs=};; esac; done
if grep -q "scancel.* $job\\$" "$TOLD"; then echo "$AFTER|0:00|1:00|"; else echo "$BEFORE|0:00|1:00|(Priority)"; fi
"""


def asking(programs: Programs, runs: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return launcher(*command, "--runs", str(runs), env={**programs.env, **env})


@pytest.mark.parametrize("state", ["CONFIGURING", "PENDING", "hello"])
def test_what_does_not_run_is_cancelled_whatever_its_state(state: str, programs: Programs, tmp_path: Path) -> None:
    programs.write(sbatch="echo 4711", squeue=STATES, scancel="", scontrol="")
    submit(programs, tmp_path)
    done = asking(programs, tmp_path, "cancel", "it", BEFORE=state, AFTER="CANCELLED")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "job: 4711, CANCELLED")
    assert programs.told.count("scancel 4711") == 1
    for ended in ("LAUNCH_FAILED", "RECONFIG_FAIL"):
        done = asking(programs, tmp_path, "cancel", "it", BEFORE=ended, AFTER=ended)
        assert done.stdout == f"job: 4711, {ended}: there is nothing to end\n"


def test_a_job_that_does_not_end_is_given_up(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.write(squeue=STATES, scancel="", scontrol="")
    for name, value in {**programs.env, "BEFORE": "STAGE_OUT", "AFTER": "STAGE_OUT"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "_GIVE_UP", 1.0)
    with pytest.raises(slurm.SlurmError, match="Job 12 was told to end, and is still STAGE_OUT after 1 seconds"):
        slurm.Job("12").end(now=False, say=print)


def test_an_array_is_shown_and_ended_by_its_number(programs: Programs, tmp_path: Path) -> None:
    programs.write(sbatch="echo 4711", squeue=STATES, scancel="", scontrol="")
    shown = sweep(programs, tmp_path).stdout
    folder, states = tmp_path / "mortal-sweep", {"BEFORE": "PENDING", "AFTER": "CANCELLED"}
    assert f"launcher cancel 4711 --runs {folder})" in shown
    told = asking(programs, folder, "status", "4711", **states).stdout.splitlines()
    assert [line for line in told if line.startswith("job")] == [
        "job: 4711_0, PENDING, Priority",
        "job: 4711_1, PENDING, Priority",
    ]
    one = asking(programs, folder, "logs", "4711", **states)
    assert one.stderr == "launcher: Job 4711 is an array of 2 runs. Name one: 4711_0, say.\n"
    ended = asking(programs, folder, "cancel", "4711", **states).stdout.splitlines()
    assert [line for line in ended if line.startswith("job")] == ["job: 4711_1, CANCELLED", "job: 4711_0, CANCELLED"]


def test_commands_are_shown_as_they_can_be_typed(programs: Programs, tmp_path: Path) -> None:
    programs.write(sbatch="echo 4711", squeue=STATES)
    there = f"4711 --runs {tmp_path}/runs"
    said = f"job: 4711 (launcher status {there}, launcher logs -f {there}, launcher cancel {there})"
    assert submit(programs, tmp_path / "runs").stdout.splitlines()[-1] == said
    again = submit(programs, tmp_path / "runs")
    assert f"end it (launcher cancel {there}), or" in again.stderr
    silent = asking(programs, tmp_path / "runs", "logs", "4711")
    assert silent.stderr == f"launcher: Job 4711 has printed nothing yet. Ask how it stands: launcher status {there}\n"
    here = launcher("submit", MORTAL, "--to", "slurm", env=programs.env, cwd=tmp_path)  # in the default folder
    assert here.stdout.splitlines()[-1].startswith("job: 4711 (launcher status 4711, launcher logs -f 4711, ")


def test_following_a_job_outlives_a_question_that_fell(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.write(
        squeue="""case $(wc -l < "$TOLD") in
1) echo "RUNNING|0:10|1:00|node0";;
2) echo "Socket timed out on send/recv operation" >&2; exit 1;;
*) echo "COMPLETED|0:10|1:00|node0";;
esac"""
    )
    for name, value in programs.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "_ASK", 0.0)
    run = RunDirectory(tmp_path)
    run.slurm.mkdir()
    run.slurm_log.write_text("a line\n")
    assert list(slurm.Job("12").output(run, follow=True)) == ["a line"]
    assert len(programs.told) == 3
