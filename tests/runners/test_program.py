"""What becomes of the answers of engines' programs, whatever these print: a state, or that engine's error."""

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
from launcher.runners import docker, ray, slurm
from launcher.runners.program import ProgramError
from tests.processes import ROOT, clean_environment, launcher, wait_until

NO_ANSWERS = (b"", b"no JSON", b"\xff\xfe|", b"{}", b"[]", b"null", b"1", b'{"Status": "exited"}')
DIGITS = ROOT / "recipes" / "digits" / "recipe.yaml"


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What all programs of engines print."""
    answer = tmp_path / "answer"
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("docker", "ray", "squeue", "sacct", "sbatch"):
        (programs / name).write_text(f"#!/bin/sh\ncat {answer}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(programs / "python3"))
    return answer


@pytest.mark.parametrize("answer", NO_ANSWERS)
def test_an_answer_that_is_none_is_the_engines_error(answer: bytes, said: Path, tmp_path: Path) -> None:
    said.write_bytes(answer)
    run, job = RunDirectory(tmp_path / "it"), Submission(("docker", "run"), {})
    (run.path / "docker").mkdir(parents=True)
    with pytest.raises(docker.DockerError):
        docker.Container("abc").state()
    with pytest.raises(ray.RayError):
        ray.Job("raysubmit_1").state()
    with pytest.raises(docker.DockerError):
        docker.submit(job, run)
    if answer != b"1":
        with pytest.raises(PerhapsTakenError):
            slurm.submit(Submission(("sbatch",), {}), run)
        assert not run.slurm_job.exists()
    try:
        slurm.Job("1").state()
    except ProgramError as error:
        assert "\n" not in str(error)
    said.write_bytes(b"one\xff\n")
    assert list(docker.Container("abc").output(run, follow=True)) == ["one\ufffd"]


# Makes a container, and has not said so yet when it is interrupted.
DOCKER = """#!/bin/sh
echo "$@" >> "$TOLD"
case "$1" in
  run) echo made >> "$MADE"; sleep 30 ;;
  ps) echo before; cat "$MADE" ;;
esac
"""


def test_a_container_that_was_interrupted_is_removed(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "docker").write_text(DOCKER)
    (programs / "docker").chmod(0o755)
    told, made = tmp_path / "told", tmp_path / "made"
    made.touch()
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "TOLD": str(told), "MADE": str(made)}
    command = ["submit", str(DIGITS), "launch.device=cpu", "launch.docker.image=image", "--to", "docker"]
    command += ["--run-id", "it", "--runs", str(tmp_path / "new" / "runs")]
    with subprocess.Popen(
        [sys.executable, "-m", "launcher", *command], env=clean_environment(**env), cwd=ROOT
    ) as submitting:
        wait_until(lambda: bool(made.read_text()))
        submitting.send_signal(signal.SIGINT)
        assert submitting.wait(20) == 130
    assert told.read_text().splitlines()[-1] == "rm --force made"
    assert not (tmp_path / "new").exists()


# Has taken a job, or says so only later; and has it when it is told to stop it, or does not.
RAY = """#!/bin/sh
echo "$@" >> "$TOLD"
case "$2" in
  submit) sleep "$SLOW"; exit 1 ;;
  stop) [ -z "$HAS" ] || exit 0; echo "RuntimeError: Job does not exist" >&2; exit 1 ;;
esac
"""


@pytest.mark.parametrize("has", ["", "yes"])
@pytest.mark.parametrize("slow", ["0", "30"])
def test_a_job_of_ray_is_on_record_while_ray_may_have_it(
    slow: str, has: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, told = tmp_path / "programs", tmp_path / "told"
    programs.mkdir()
    (programs / "ray").write_text(RAY)
    (programs / "ray").chmod(0o755)
    for name, value in (("PATH", f"{programs}:{os.environ['PATH']}"), ("TOLD", told), ("SLOW", slow), ("HAS", has)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(sys, "executable", str(programs / "python3"))
    monkeypatch.setattr(ray, "_RAY", replace(ray._RAY, patience=2.0))
    run = RunDirectory(tmp_path / "it")
    (run.path / "ray").mkdir(parents=True)
    with pytest.raises(ray.RayError):
        ray.submit(Submission(("ray", "job", "submit", "--submission-id=raysubmit_1"), {}), run, "http://head:1")
    assert told.read_text().splitlines()[-1] == "job stop --address=http://head:1 --no-wait raysubmit_1"
    assert ray.Job.of(run) == (ray.Job("raysubmit_1", "http://head:1") if has else None)


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    command = ("submit", str(DIGITS), "launch.device=cpu", "launch.docker.image=image", "--to", "docker")
    done = launcher(*command, "--run-id", "it", "--runs", str(tmp_path / "runs"), env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_program_that_cannot_be_started_is_the_engines_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "sbatch").write_text("no program")
    (tmp_path / "sbatch").chmod(0o755)
    cure = "See which one comes first in PATH."
    with pytest.raises(slurm.SlurmError, match=f"sbatch cannot be started: Exec format error. {cure}"):
        slurm.submit(Submission(("sbatch",), {}), RunDirectory(tmp_path))
