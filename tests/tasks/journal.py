"""The shipped byte model on a part of its data, which writes down each sample that it is trained on."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from launcher.rundir.generation import read_generation
from launcher.rundir.heartbeat import read_beats
from launcher.rundir.layout import RunDirectory
from recipes.bytelm.task import ByteLM
from tests.tasks.threats import Fate

SAMPLES = 1530  # 23 windows of 64, and a tail of 58: 8 micro-batches, the last of them of 2


def journal_of(run: RunDirectory, launch: int, rank: int | str) -> Path:
    """The file that a process writes; rank `*` for a pattern of those of a launch."""
    return run.path.with_name(f"{run.path.name}.journal.{launch}.{rank}")


class NumberedPiece(NamedTuple):
    """A sample that knows its place in the data; -1 for one to evaluate on."""

    before: int
    text: bytes
    number: int


class JournalledByteLM(ByteLM):
    """The task of the recipe; batches carry the numbers of their samples.

    Each process writes a journal of its own beside the run's directory: a line for each loss that a gradient goes back
    from, with the update, as the run counts them, and the samples.
    """

    def __init__(self, **arguments: int) -> None:
        super().__init__(**arguments)
        self.fate = Fate()
        self.rank = int(os.environ.get("RANK", "0"))
        self.run = RunDirectory.from_environ(os.environ)
        self.journal = journal_of(self.run, read_generation(self.run), self.rank)

    def train_data(self) -> list[NumberedPiece]:  # type: ignore[override]  # pieces with one thing more
        return [NumberedPiece(*piece, number) for number, piece in enumerate(super().train_data()[:SAMPLES])]

    def eval_data(self) -> list[NumberedPiece]:  # type: ignore[override]
        return [NumberedPiece(*piece, -1) for piece in super().eval_data()]

    def collate(self, samples: list[NumberedPiece]) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        numbers = torch.tensor([sample.number for sample in samples])
        return *super().collate(samples), numbers  # type: ignore[arg-type]

    def items(self, batch: Any) -> int:
        return super().items(batch[:2])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.fate.loss()
        loss = super().loss(model, batch[:2])
        loss.register_hook(partial(self.write_down, batch[2].tolist()))  # type: ignore[no-untyped-call]  # as torch has it
        return loss

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        return super().evaluate(model, batch[:2])

    def write_down(self, samples: list[int], gradient: Tensor) -> None:
        assert float(gradient) > 0  # the loss weighs something
        with self.journal.open("a") as journal:
            journal.write(json.dumps({"update": self.update(), "samples": samples}) + "\n")

    def update(self) -> int:
        """The update that this rank is in, as it tells it to the launcher."""
        while True:  # a beat may be under way
            for beat in read_beats(self.run):
                if beat.rank == self.rank:
                    return beat.update
