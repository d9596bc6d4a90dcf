"""Seconds for which training stands still while its state is kept."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.checkpoints.work import trained_job
from launcher.plan.windows import Window
from launcher.rundir.generation import take_over
from launcher.rundir.layout import RunDirectory
from launcher.train.job import Job
from launcher.worker.checkpointing import RunSaver


@dataclass(frozen=True)
class Round:
    """One checkpoint in each way, in seconds.

    Attributes:
        saved: `torch.save` of the model's and the optimizer's state to a file.
        saved_on_disk: the same, and until the file is on the disk.
        stall: a checkpoint of the launcher, with its checksums, on the disk.
        background_stall: one in the background, until the training may go on.
        background: the same until it is committed, while nothing else is done.
    """

    saved: float
    saved_on_disk: float
    stall: float
    background_stall: float
    background: float


@dataclass(frozen=True)
class Size:
    """What was measured on one size of model.

    Attributes:
        millions: of parameters.
        state_bytes: of what is kept, in a file of `torch.save`.
        rounds: the measurements.
    """

    millions: int
    state_bytes: int
    rounds: tuple[Round, ...]


def measure(millions: int, rounds: int, folder: Path) -> Size:
    """Keep the state of one model again and again, in all ways in turn.

    Args:
        millions: millions of parameters.
        rounds: how often; one more comes first and is not counted.
        folder: on the disk to write to.
    """
    whole, apart = (_Kept(trained_job(millions, background), folder / str(background)) for background in (False, True))
    file = folder / "state.pt"
    measured = []
    for number in range(rounds + 1):
        measured.append(
            Round(
                saved=_seconds(lambda: _torch_save(whole.job, file)),
                saved_on_disk=_seconds(lambda: _torch_save_on_disk(whole.job, file)),
                stall=_seconds(whole.save),
                **_in_background(apart),
            )
        )
        print(f"{millions} million parameters: round {number} of {rounds}", file=sys.stderr)
    size = file.stat().st_size
    shutil.rmtree(folder)
    return Size(millions, size, tuple(measured[1:]))


def _in_background(kept: _Kept) -> dict[str, float]:
    os.sync()
    since = perf_counter()
    kept.save()
    stall = perf_counter() - since
    kept.saver.finish()
    return {"background_stall": stall, "background": perf_counter() - since}


class _Kept:
    """A job and its checkpoints.

    Args:
        job: the job.
        folder: of its run.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        folder.mkdir(parents=True)
        run = RunDirectory(folder)
        take_over(run)
        self.job = job
        self.saver = RunSaver(run, job, print)
        self._window: Window = next(job.plan.windows(0))

    def save(self) -> None:
        """One more checkpoint."""
        self.saver.save(self._window)
        self._window = replace(self._window, update=self._window.update + 1)


def _torch_save(job: Job, file: Path) -> None:
    torch.save({"model": job.engine.model.state_dict(), "optimizer": job.stepper.optimizer.state_dict()}, file)


def _torch_save_on_disk(job: Job, file: Path) -> None:
    _torch_save(job, file)
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _seconds(do: Callable[[], None]) -> float:
    os.sync()  # nobody waits here for what another has left to be written
    since = perf_counter()
    do()
    return perf_counter() - since
