"""A run that tests submit, and the same one without Slurm."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.processes import ROOT, launcher
from tests.slurm.cluster import Cluster
from tests.wandb_server import WandbServer

MORTAL = ROOT / "tests" / "tasks" / "mortal.yaml"
TWO = ("launch.nodes=2", "launch.nproc_per_node=1")
_KEY = "0123456789" * 4


@dataclass
class Submitted:
    """A run that was submitted, or will be.

    Attributes:
        cluster: where.
        runs: the folder of the run.
        slow: while it is there, paced updates take their time.
        updates: how long the run is.
        server: the W&B that it logs to, if it does.
    """

    cluster: Cluster
    runs: Path
    slow: Path
    updates: int = 20
    server: WandbServer | None = None

    @property
    def path(self) -> Path:
        return self.runs / "it"

    @property
    def job(self) -> str:
        return (self.path / "slurm" / "job_id").read_text().strip()

    @property
    def log(self) -> str:
        return (self.path / "slurm" / "output.log").read_text()

    def launcher(self, *arguments: str, **env: str) -> CompletedProcess[str]:
        environment = {**self.cluster.environment, "SLOW": str(self.slow), **self._wandb(), **env}
        return launcher(*arguments, "--runs", str(self.runs), env=environment, timeout=600)

    def submit(self, *settings: str, recipe: Path = MORTAL, **env: str) -> None:
        length = () if recipe != MORTAL else (f"train.updates={self.updates}",)
        done = self.launcher("submit", str(recipe), *length, *settings, "--to", "slurm", "--run-id", "it", **env)
        assert done.returncode == 0, done.stderr
        assert f"job: {self.job} (launcher status {self.job} --runs {self.runs}, " in done.stdout

    def _wandb(self) -> dict[str, str]:
        if self.server is None:
            return {}
        home = str(self.runs)  # where W&B keeps files of its own
        return {"WANDB_MODE": "online", "WANDB_BASE_URL": self.server.url, "WANDB_API_KEY": _KEY, "HOME": home}

    def rows(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "status.json").read_text())
        return found

    def state(self) -> str:
        return self.cluster.call("squeue", "-h", "-t", "all", "-j", self.job, "-o", "%T").strip()

    def wait(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, self.log if (self.path / "slurm" / "output.log").exists() else self.state()
            time.sleep(0.05)

    def wait_for_end(self) -> None:
        self.wait(lambda: self.state() in ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT"))

    def told_once(self) -> bool:
        """Whether each update has one row in the run's file, and one in W&B, which has one run."""
        steps = list(range(1, self.updates + 1))
        told = [[row["train/global_step"] for row in self.rows()]]
        if self.server is not None:
            told += [[row["train/global_step"] for row in run.rows()] for run in self.server.runs.values()]
        return told == [steps] * (1 if self.server is None else 2)

    def result(self) -> tuple[list[Any], dict[str, bytes]]:
        """What must be the same bit for bit: losses and learning rates, and the last checkpoint."""
        told = [[row[key] for key in ("train/global_step", "train/loss", "train/grad_norm")] for row in self.rows()]
        folder = self.path / "checkpoints" / f"step_{self.updates:08d}"
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "MANIFEST.json"}
        assert any(name.endswith(".safetensors") for name in files)
        return told, files


def undisturbed(it: Submitted, *settings: str) -> Submitted:
    """The same run on two ranks of one machine, without Slurm."""
    other = Submitted(it.cluster, it.runs / "undisturbed", it.slow.with_name("fast"), it.updates)
    length = f"train.updates={it.updates}"
    done = other.launcher(
        "run", str(MORTAL), length, *settings, "launch.nodes=1", "launch.nproc_per_node=2", "--run-id", "it"
    )
    assert done.returncode == 0, done.stderr
    return other
