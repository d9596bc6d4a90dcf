"""A task that trains in no time, and that breaks in the way that a test asks for."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from launcher import Task

SAMPLES = 64


class Tiny(Task):
    """Least squares on 64 samples.

    Args:
        fault: what happens: raise, sigkill, segfault, exit, nan (in the loss), tell (say so and train on), hang (say so
            and stay), sigstop, wait (for what never comes), lock (as wait, and no other thread of Python goes on
            either), doze (the same, until any signal comes), compute (in C for 4 seconds, in which no other thread goes
            on).
        rank: in which rank.
        at: in which micro-step of it, from 1.
        once: a file, made as it happens, that keeps it from happening again.
        tell: a FIFO to write a line to, for a test that waits for the moment.
    """

    def __init__(self, fault: str = "", rank: int = 0, at: int = 1, tell: str = "", once: str = "") -> None:
        self.fault = fault
        self.at = at if int(os.environ.get("RANK", "0")) == rank else -1
        self.tell = tell
        self.once = once
        self.calls = 0
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(SAMPLES, 4, generator=generator)
        self.data = TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))

    def model(self) -> nn.Module:
        return nn.Linear(4, 1)

    def train_data(self) -> TensorDataset:
        return self.data

    def eval_data(self) -> TensorDataset:
        return self.data

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            self.break_down()
        inputs, targets = batch
        wrong = math.nan if self.calls == self.at and self.fault == "nan" else 1.0
        return functional.mse_loss(model(inputs), targets) * wrong

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        inputs, targets = batch
        return {"loss": (model(inputs) - targets).square().mean(dim=1), "index": inputs[:, 0]}

    def break_down(self) -> None:
        if self.once:
            try:
                Path(self.once).touch(exist_ok=False)
            except FileExistsError:
                return
        if self.fault == "raise":
            raise ValueError("bad pixel in sample 17")
        if self.fault == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.fault == "exit":
            sys.exit(7)
        if self.fault in ("tell", "hang"):
            Path(self.tell).write_text(f"{os.getpid()} {os.getppid()}\n")
        if self.fault in ("hang", "wait"):
            threading.Event().wait()
        if self.fault == "sigstop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.fault == "lock":
            library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)  # zeros are one that is open
            for _ in range(2):
                library.pthread_mutex_lock(mutex)  # which no signal interrupts
        if self.fault == "doze":
            ctypes.PyDLL(None).pause()
        if self.fault == "compute":
            began = time.perf_counter()
            sum(range(10_000_000))
            sum(range(int(4 / (time.perf_counter() - began) * 10_000_000)))


class SlowToStart(Tiny):
    """Data that is opened by C that sleeps for 4 seconds, in which no thread of Python goes on."""

    def train_data(self) -> TensorDataset:
        ctypes.PyDLL(None).usleep(4_000_000)
        return super().train_data()


class Contrast(Tiny):
    """A loss that one sample alone does not have: its spread over the micro-batch."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        loss: Tensor = super().loss(model, batch) + 0 * model(batch[0]).std()
        return loss

    def train_data(self) -> TensorDataset:
        return TensorDataset(*(column[:18] for column in self.data.tensors))  # a tail of 2 for a batch of 16


class HalfUsed(Tiny):
    """A model of which the loss uses a half."""

    def model(self) -> nn.Module:
        return nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        assert isinstance(model, nn.ModuleList)
        return super().loss(model[0], batch)


class OwnPart(Tiny):
    """Data that differs from rank to rank, as a task gives it that deals it out itself."""

    def train_data(self) -> TensorDataset:
        kept = SAMPLES - int(os.environ["RANK"])
        return TensorDataset(*(column[:kept] for column in self.data.tensors))


class Drawn(Tiny):
    """Data drawn at random when the task is made."""

    def __init__(self) -> None:
        super().__init__()
        self.data = TensorDataset(torch.randn(SAMPLES, 4), torch.randn(SAMPLES, 1))


class Service(Tiny):
    """Fails with an exception whose name is one of ours."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        class RequestError(Exception):
            pass

        raise RequestError("the image server said 503")


class MeanOfMeans(Tiny):
    """Evaluates to a mean instead of one number per sample."""

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"index": batch[0].mean()}


class Mourned(Tiny):
    """Says when its model is cleared away."""

    def model(self) -> nn.Module:
        model = super().model()
        weakref.finalize(model, print, "the model is gone").atexit = False
        return model
