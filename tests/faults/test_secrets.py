"""Secrets of the environment: in nothing that a run leaves, shows or tells other processes by their command lines."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.faults.runs import Run, sample_of
from tests.faults.table import Kind
from tests.processes import ROOT, clean_environment, launcher
from tests.wandb_server import WandbServer

CANARY = "c0ffee" * 6 + "c0de"  # as long as a key of W&B
NAMES = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DATABASE_PASSWORD", "SERVICE_KEY")
SECRETS = {name: f"{number}{CANARY[1:]}" for number, name in enumerate(NAMES)}


def holders(folder: Path) -> list[str]:
    """Files that hold the canary."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [str(path.relative_to(folder)) for path in files if CANARY[1:].encode() in path.read_bytes()]


class CommandLines(threading.Thread):
    """Looks at all command lines of the machine, again and again, until it is told to end."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.seen: set[str] = set()

    def run(self) -> None:
        while not self.over.wait(0.05):
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    line = (entry / "cmdline").read_text()
                except OSError:
                    continue
                if CANARY[1:] in line:
                    self.seen.add(line)


@pytest.mark.fault(
    Kind.SECRET,
    "secrets in the environment",
    by="WANDB_API_KEY, *_TOKEN, *_KEY, *_PASSWORD in a run with W&B whose rank fails and quotes one",
    outcome="in no file of the run, no output, no dry run and no command line",
)
@pytest.mark.long
def test_no_secret_of_the_environment_is_told(it: Run) -> None:
    tracking = ("tracking.wandb.mode=online", "train.updates=6")
    settings = (*it.faults({sample_of(3, rank=1, micro_step=1): "quotes_a_secret"}), *tracking)
    home = it.runs / "home"
    home.mkdir()
    looking = CommandLines()
    looking.start()
    with WandbServer() as server:
        env = {**SECRETS, "WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "HOME": str(home)}
        done = it.launch(*settings, env=env)
        shown = it.launch(*settings, "--dry-run", env=env)
        planned = launcher("plan", *it.arguments(*settings)[1:-4], "--json", env=env)
        assert len(server.runs) == 1
    looking.over.set()
    looking.join()
    assert (done.returncode, shown.returncode, planned.returncode) == (0, 0, 0), (
        done.stderr + shown.stderr + planned.stderr
    )
    assert "ValueError: 401 Unauthorized: ***" in done.stderr
    assert (it.path / "report.html").exists()
    assert any("Traceback" in path.read_text() for path in (it.path / "logs").glob("rank_1.log*"))
    assert holders(it.runs) == []
    assert looking.seen == set()
    for output in (done, shown, planned):
        assert CANARY[1:] not in output.stdout + output.stderr


def test_the_look_finds_what_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\0" + CANARY.encode())
    assert holders(tmp_path) == ["file"]
    looking = CommandLines()
    looking.start()
    waiting = [sys.executable, "-c", "import sys; sys.stdin.read()", SECRETS["HF_TOKEN"]]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, cwd=ROOT, env=clean_environment()) as process:
        for _ in range(600):
            if looking.seen or looking.over.wait(0.05):
                break
        os.kill(process.pid, 9)
    looking.over.set()
    looking.join()
    assert len(looking.seen) == 1
