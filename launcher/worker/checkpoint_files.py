"""The files of a checkpoint: tensors in safetensors, all else in JSON. None of it is code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from launcher.rundir.durable import write_durably
from launcher.rundir.manifest import FileFacts
from launcher.rundir.stored_tensors import rank_file, refuse_gaps, stored_chunks, tensor_files, whole_file
from launcher.train.chunks import Parts
from launcher.train.snapshot import Numbers, Tensors
from launcher.worker.tensor_file import tensor_file

MODEL, OPTIMIZER, TRAINING = "model", "optimizer", "training.json"
KIND = "optimizer_kind"


@dataclass(frozen=True)
class Captured:
    """The state after an update, as the ranks write it.

    Attributes:
        update: updates made.
        model: the model: whole, for rank 0 to write, or this rank's parts of it.
        optimizer: what the optimizer remembers, in the same way.
        numbers: all else that the ranks hold alike.
        unlogged: the row of the update, if it is not logged yet.
    """

    update: int
    model: Tensors | Parts
    optimizer: Tensors | Parts
    numbers: Numbers
    unlogged: Mapping[str, float] | None = None

    @property
    def in_parts(self) -> bool:
        """Whether every rank has to write some of it."""
        return isinstance(self.model, Parts)

    def write_parts(self, folder: Path, rank: int, moved: Callable[[], None] = lambda: None) -> dict[str, FileFacts]:
        """Write this rank's parts; the facts of each file, by name.

        Args:
            folder: where.
            rank: this rank.
            moved: called whenever some of it is written.
        """
        files = {}
        for name, state in ((MODEL, self.model), (OPTIMIZER, self.optimizer)):
            if isinstance(state, Parts) and any(part.chunks for part in state.tensors.values()):
                from launcher.worker.chunk_storage import save_chunks  # long to import, and not always needed

                file = rank_file(name, rank)
                files[file] = save_chunks(folder / file, state.tensors, moved)
        return files

    def write(self, folder: Path, moved: Callable[[], None] = lambda: None) -> dict[str, FileFacts]:
        """Write what rank 0 writes for all; the facts of each file, by name.

        Args:
            folder: where, which holds the parts of all ranks by now.
            moved: called, from several threads, whenever some of it is written.

        Raises:
            BadCheckpointError: what the ranks have written is not the whole.
        """
        states = ((MODEL, self.model), (OPTIMIZER, self.optimizer))
        whole = {whole_file(name): tensor_file(state.tensors) for name, state in states if isinstance(state, Tensors)}
        for name, state in states:
            if isinstance(state, Parts):
                shapes = {tensor: part.shape for tensor, part in state.tensors.items()}
                refuse_gaps(stored_chunks(tensor_files(folder, name)), shapes)
        with ThreadPoolExecutor() as together:
            facts = together.map(write_durably, (folder / name for name in whole), whole.values(), repeat(moved))
            files = dict(zip(whole, facts, strict=True))
        numbers = {**self.numbers, MODEL: self.model.numbers, OPTIMIZER: self.optimizer.numbers}
        return {**files, TRAINING: write_numbers(folder / TRAINING, numbers)}


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
