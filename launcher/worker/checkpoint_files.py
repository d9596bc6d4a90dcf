"""The files of a checkpoint: tensors in safetensors, all else in JSON. None of it is code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from launcher.rundir.durable import write_durably
from launcher.rundir.manifest import FileFacts
from launcher.train.snapshot import Numbers, Tensors
from launcher.worker.tensor_file import tensor_file

MODEL, OPTIMIZER, TRAINING = "model", "optimizer", "training.json"
KIND = "optimizer_kind"


@dataclass(frozen=True)
class Captured:
    """What all ranks hold alike after an update, as rank 0 writes it.

    Attributes:
        update: updates made.
        model: the model.
        optimizer: what the optimizer remembers.
        numbers: all else.
    """

    update: int
    model: Tensors
    optimizer: Tensors
    numbers: Numbers

    def write(self, folder: Path, moved: Callable[[], None] = lambda: None) -> dict[str, FileFacts]:
        """Write it; the facts of each file, by name.

        Args:
            folder: where.
            moved: called, from several threads, whenever some of it is written.
        """
        names = [tensors_of(name) for name in (MODEL, OPTIMIZER)]
        contents = [tensor_file(state.tensors) for state in (self.model, self.optimizer)]
        with ThreadPoolExecutor() as together:
            facts = together.map(write_durably, (folder / name for name in names), contents, repeat(moved))
            files = dict(zip(names, facts, strict=True))
        numbers = {**self.numbers, MODEL: self.model.numbers, OPTIMIZER: self.optimizer.numbers}
        return {**files, TRAINING: write_numbers(folder / TRAINING, numbers)}


def read_tensors(folder: Path, name: str, numbers: Mapping[str, Any]) -> Tensors:
    """The model, or what the optimizer remembers, with what the numbers of the checkpoint say of it."""
    return Tensors(load_file(folder / tensors_of(name)), numbers[name])


def tensors_of(name: str) -> str:
    """The file of the model, or of the optimizer."""
    return f"{name}.safetensors"


def of_rank(rank: int) -> str:
    """The file of what is one rank's own."""
    return f"rank_{rank:05d}.json"


def write_numbers(path: Path, numbers: Numbers) -> FileFacts:
    """Write what is no tensor, so that it survives a loss of power."""
    return write_durably(path, [json.dumps(numbers).encode()])


def read_numbers(path: Path) -> Numbers:
    """What is no tensor; JSON keeps every bit of a float."""
    numbers: Numbers = json.loads(path.read_bytes())
    return numbers
