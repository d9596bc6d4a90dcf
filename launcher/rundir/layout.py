"""The files of a run, by name. Both wings know a run directory by this and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PASTED = ".pasted"  # what the names of files end with that a pasted command has brought, until its agent has the run


@dataclass(frozen=True)
class RunDirectory:
    """Where everything of one run lies."""

    path: Path

    @staticmethod
    def from_environ(environ: Mapping[str, str]) -> RunDirectory:
        """The directory that a launch tells its workers in LAUNCHER_RUN_DIR."""
        return RunDirectory(Path(environ["LAUNCHER_RUN_DIR"]))

    @property
    def recipe(self) -> Path:
        """The recipe as it was resolved: inherited keys and overrides in, paths absolute."""
        return self.path / "recipe.yaml"

    @property
    def plan(self) -> Path:
        """The plan that the workers hold themselves to."""
        return self.path / "plan.json"

    @property
    def accelerate_config(self) -> Path:
        """The config file of `accelerate launch`, for runs that are started by it."""
        return self.path / "accelerate.yaml"

    @property
    def deepspeed_config(self) -> Path:
        """The configuration of DeepSpeed, for runs whose engine it is."""
        return self.path / "deepspeed.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per update."""
        return self.path / "metrics.jsonl"

    @property
    def status(self) -> Path:
        """How the run stands, or how it ended."""
        return self.path / "status.json"

    @property
    def report(self) -> Path:
        """The run as a page with pictures."""
        return self.path / "report.html"

    @property
    def proof(self) -> Path:
        """What `launcher prove` found."""
        return self.path / "proof.json"

    @property
    def network(self) -> Path:
        """What `launcher doctor` has measured."""
        return self.path / "network.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, each a folder named by its update."""
        return self.path / "checkpoints"

    @property
    def data(self) -> Path:
        """A few numbers of the data that the run was begun with."""
        return self.path / ".data.json"

    @property
    def fitting(self) -> Path:
        """The micro-batches that launches of the run have found to fit."""
        return self.path / ".fitting.json"

    @property
    def past(self) -> Path:
        """The windows that the run had taken when it was forked to others."""
        return self.path / ".past.json"

    @property
    def generation(self) -> Path:
        """The number of the last launch that took the run over."""
        return self.path / ".generation"

    @property
    def identity(self) -> Path:
        """What tells this run from all others, the same for every launch."""
        return self.path / ".run_id"

    @property
    def begun_by(self) -> Path:
        """The job that the run was begun by, where it was told what it is called."""
        return self.path / ".begun_by"

    @property
    def before_fork(self) -> Path:
        """Folder of what the run was begun with, until a fork of it has made an update."""
        return self.path / ".before_fork"

    @property
    def forked(self) -> Path:
        """Where and with which recipe the run was forked last."""
        return self.path / ".forked.json"

    @property
    def wandb(self) -> Path:
        """Folder of the files that W&B writes."""
        return self.path / "wandb"

    @property
    def wandb_id(self) -> Path:
        """The id of the W&B run, the same for every launch."""
        return self.path / ".wandb_id"

    @property
    def heartbeats(self) -> Path:
        """Folder of the ranks' heartbeats, one file each while they train."""
        return self.path / ".heartbeat"

    @property
    def lock(self) -> Path:
        """Held by the launch that writes here."""
        return self.path / ".lock"

    @property
    def round(self) -> Path:
        """How the machines of an elastic run meet, and which of them."""
        return self.path / ".round"

    @property
    def nodes(self) -> Path:
        """Folder of the machines of an elastic run, one file each while its launcher lives."""
        return self.path / ".nodes"

    @property
    def slurm(self) -> Path:
        """Folder of what Slurm was given, for runs that were submitted to it."""
        return self.path / "slurm"

    @property
    def slurm_recipe(self) -> Path:
        """The recipe that a job runs, which is that of the time when it was submitted."""
        return self.slurm / "recipe.yaml"

    @property
    def slurm_script(self) -> Path:
        """The script that Slurm was given."""
        return self.slurm / "job.sh"

    @property
    def slurm_job(self) -> Path:
        """The id of the last job of the run."""
        return self.slurm / "job_id"

    @property
    def slurm_log(self) -> Path:
        """What the jobs of the run have printed, one after the other."""
        return self.slurm / "output.log"

    @property
    def ray(self) -> Path:
        """Folder of what Ray was given, for runs that were submitted to it."""
        return self.path / "ray"

    @property
    def ray_recipe(self) -> Path:
        """The recipe that a job of Ray runs, which is that of the time when it was submitted."""
        return self.ray / "recipe.yaml"

    @property
    def ray_job(self) -> Path:
        """The id of the last job of the run."""
        return self.ray / "job_id"

    @property
    def skypilot(self) -> Path:
        """Folder of what SkyPilot was given, for runs that were submitted to it."""
        return self.path / "skypilot"

    @property
    def skypilot_recipe(self) -> Path:
        """The recipe that a job of SkyPilot runs."""
        return self.skypilot / "recipe.yaml"

    @property
    def skypilot_task(self) -> Path:
        """The task file that SkyPilot was given."""
        return self.skypilot / "task.yaml"

    @property
    def skypilot_job(self) -> Path:
        """The name of the last job of the run."""
        return self.skypilot / "job_id"

    @property
    def stop(self) -> Path:
        """There once the ranks on Ray are to end at their next update: no signal reaches them from here."""
        return self.path / ".stop"

    @property
    def docker(self) -> Path:
        """Folder of what Docker was given, for runs in a container."""
        return self.path / "docker"

    @property
    def docker_recipe(self) -> Path:
        """The recipe that a container runs, which is that of the time when it was started."""
        return self.docker / "recipe.yaml"

    @property
    def docker_job(self) -> Path:
        """The id of the last container that was left to Docker."""
        return self.docker / "job_id"

    @property
    def kubernetes(self) -> Path:
        """Folder of what Kubernetes was given, for runs that were submitted to it."""
        return self.path / "kubernetes"

    @property
    def kubernetes_manifest(self) -> Path:
        """The objects that Kubernetes was given."""
        return self.kubernetes / "manifest.yaml"

    @property
    def kubernetes_job(self) -> Path:
        """The kind, the name and the namespace of the last job of the run."""
        return self.kubernetes / "job_id"

    @property
    def logs(self) -> Path:
        """Folder of the log files."""
        return self.path / "logs"

    @property
    def agent_log(self) -> Path:
        """What torchrun or accelerate itself had to say."""
        return self.logs / "agent.log"

    @property
    def agent_files(self) -> Path:
        """Folder that torchrun or accelerate wants for files of its own, which it would else leave in /tmp."""
        return self.logs / "agent"

    @property
    def failures(self) -> Path:
        """Folder of failure records, one per rank that failed, and what the agent saw."""
        return self.logs / "failures"

    def rank_log(self, rank: int) -> Path:
        """Everything that one rank printed."""
        return self.logs / f"rank_{rank}.log"


def write_atomically(path: Path, text: str, *, lasting: bool = False) -> None:
    """Replace a file so that a reader sees the old text or the new, never half of it.

    Args:
        path: the file.
        text: the new text.
        lasting: wait until it is on the disk, or a power loss could leave an empty file. Not for what is written often.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None  # a full disk names no file


def write_over(path: Path, text: str) -> None:
    """Replace what a file holds in its own place, as a full disk allows; who reads it now may find half of it.

    Args:
        path: the file, which must be there.
        text: the new text, no longer than the place that the file has on the disk.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("r+b", buffering=0) as file:
        file.write(text.encode())
        file.truncate()
