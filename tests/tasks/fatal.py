"""A task that meets its end at the samples that a test names, each time once, and else trains with what must last."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, get_worker_info

from launcher import Task

SAMPLES = 390  # 24 updates of 16 and one of 6: no sample is met twice
ON_THE_WIRE = 2**20  # bytes of a reduction that have gone out when its sender is killed


class Fatal(Task):
    """Least squares with dropout.

    Args:
        faults: sample → a method of this class, which is called by the rank that trains on the sample; if its name
            begins with "loading", by the process that loads it.
        notes: a folder that gets a file named by each fault as it happens, which keeps it from happening again, and a
            file named by a number each time that rank 0 begins to train.
    """

    def __init__(self, faults: dict[str, str] | None = None, notes: str = "") -> None:
        self.faults = {int(sample): name for sample, name in (faults or {}).items()}
        self.notes = Path(notes) if notes else None
        self.begun = False
        self.data = Samples(self)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 20), nn.Dropout(0.2), nn.Tanh(), nn.Linear(20, 1))

    def train_data(self) -> Samples:
        return self.data

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        samples, inputs, targets = batch
        self.note_the_beginning()
        happen = self.next_of(samples.tolist(), loading=False)
        if happen is not None and happen.__name__.endswith("_in_backward"):
            inputs = before_the_end(inputs.requires_grad_(), happen)
        elif happen is not None and (instead := happen()) is not None:
            return instead
        return functional.mse_loss(model(inputs), targets)

    def note_the_beginning(self) -> None:
        if self.notes and not self.begun and os.environ.get("RANK", "0") == "0":
            self.begun = True
            (self.notes / str(len(list(self.notes.glob("[0-9]*"))))).touch()

    def next_of(self, samples: list[int], loading: bool) -> Callable[[], Tensor | None] | None:
        """The fault of one of the samples, if it has not happened."""
        for sample in samples:
            name = self.faults.get(sample)
            if name is None or name.startswith("loading") != loading or self.notes is None:
                continue
            try:
                (self.notes / name).touch(exist_ok=False)
            except FileExistsError:
                continue
            found: Callable[[], Tensor | None] = getattr(self, name)
            return found
        return None

    def is_killed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def is_killed_in_backward(self) -> None:
        self.is_killed()

    def is_killed_while_sending_in_backward(self) -> None:
        """When a part of a gradient is on its way to the other ranks."""
        before, deadline = bytes_written(), time.monotonic() + 20
        while bytes_written() < before + ON_THE_WIRE:
            if time.monotonic() > deadline:
                raise TimeoutError("nothing is sent while the backward goes on")
        self.is_killed()

    def reads_a_null_pointer(self) -> None:
        ctypes.string_at(0)

    def aborts(self) -> None:
        os.abort()

    def leaves(self) -> None:
        sys.exit(0)

    def leaves_at_once(self) -> None:
        os._exit(0)

    def quotes_a_secret(self) -> None:
        raise ValueError(f"401 Unauthorized: {os.environ['HF_TOKEN']}")

    def fails(self) -> None:
        raise ValueError("bad pixel")

    def fails_with_a_thread(self) -> None:
        threading.Thread(target=threading.Event().wait, daemon=False).start()
        raise ValueError("bad pixel")

    def fails_before_a_barrier(self) -> None:
        try:
            raise ValueError("bad pixel")
        finally:
            dist.barrier()

    def survives_a_lack_of_memory(self) -> Tensor:
        """As user code does that passes over a batch that does not fit; in another rank its batch does fit."""
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        except torch.OutOfMemoryError:
            return torch.zeros((), requires_grad=True)

    def matches_for_ever(self) -> None:
        """A regular expression that holds Python's lock."""
        re.match(r"(a|a)*$", "a" * 60 + "b")

    def waits(self) -> None:
        threading.Event().wait()

    def fills_the_disk(self) -> None:
        assert self.notes is not None
        with (self.notes / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass

    def makes_room(self) -> None:
        assert self.notes is not None
        (self.notes / "filler").unlink()

    def sets_the_clock_back(self) -> None:
        assert self.notes is not None
        (self.notes / "clock").write_text("-1d")

    def loading_fails(self) -> None:
        raise ValueError("not a picture")

    def loading_is_killed(self) -> None:
        self.is_killed()

    def loading_waits(self) -> None:
        self.waits()


class Wide(Fatal):
    """Of 16 MB, reduced while the backward goes on."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 2048), nn.Tanh(), nn.Linear(2048, 2048), nn.Tanh(), nn.Linear(2048, 1))


class Large(Fatal):
    """Of 1 MB, and 2 of AdamW's."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 480), nn.Tanh(), nn.Linear(480, 480), nn.Tanh(), nn.Linear(480, 1))


class BeforeTheEnd(torch.autograd.Function):
    """Lets something happen when a backward is almost through."""

    @staticmethod
    def forward(context: Any, inputs: Tensor, happen: Callable[[], None]) -> Tensor:
        context.happen = happen
        return inputs.view_as(inputs)

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        context.happen()
        return gradients[0], None


def before_the_end(inputs: Tensor, happen: Callable[[], Tensor | None]) -> Tensor:
    """The inputs, of which the gradient is computed last."""
    same: Tensor = BeforeTheEnd.apply(inputs, happen)  # type: ignore[no-untyped-call]  # as torch has it
    return same


class Samples(Dataset[tuple[int, Tensor, Tensor]]):
    """One by one, as from files."""

    def __init__(self, task: Fatal) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(SAMPLES, 8, generator=generator)
        self.targets = self.inputs.sin().sum(dim=1, keepdim=True)
        self.task = task

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor]:
        if get_worker_info() is not None:
            happen = self.task.next_of([index], loading=True)
            if happen is not None:
                happen()
        return index, self.inputs[index], self.targets[index]


def bytes_written() -> int:
    """By this process so far, to sockets too."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])
