"""An exported model has all names of its parameters, and the bytes that the checkpoint was written with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from launcher.rundir.checkpoints import Checkpoints
from launcher.rundir.exported import export_model
from launcher.rundir.layout import RunDirectory
from launcher.rundir.manifest import BadCheckpointError
from launcher.train.chunks import Part, Parts
from launcher.train.snapshot import Tensors, model_state
from launcher.worker.checkpoint_files import Captured


class Tied(nn.Module):
    """A weight of three names, beside tensors of other types and none."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.again = self.head
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("small", torch.ones(3, dtype=torch.float16))
        self.register_buffer("none", torch.zeros(0, 2))


def checkpoint_of(folder: Path, model: nn.Module, ranks: int = 0) -> Path:
    """A checkpoint that rank 0 has written, or all of several ranks a part of each tensor."""
    store = Checkpoints(RunDirectory(folder), print)
    unfinished = store.begin(1)
    whole, nothing = model_state(model), Tensors({}, {})
    files = {} if ranks else Captured(1, whole, nothing, {}).write(unfinished)
    for rank in reversed(range(ranks)):
        captured = Captured(1, Parts(stretches(whole, rank, ranks), whole.numbers), nothing, {})
        files |= captured.write_parts(unfinished, rank)
        files |= captured.write(unfinished) if rank == 0 else {}
    return store.commit(unfinished, 1, files).folder


def stretches(state: Tensors, rank: int, ranks: int) -> dict[str, Part]:
    parts = {}
    for name, tensor in state.tensors.items():
        size = -(-tensor.numel() // ranks)
        part = Part.stretch(tensor.shape, min(rank * size, tensor.numel()), tensor.flatten()[rank * size :][:size])
        parts[name] = Part.whole(tensor) if rank == 0 and not tensor.numel() else part
    return parts


@pytest.mark.parametrize("ranks", [0, 1, 4])
def test_a_tied_weight_has_all_of_its_names(tmp_path: Path, ranks: int) -> None:
    written, target = Tied(), tmp_path / "model.safetensors"
    target.write_text("an older one")
    (tmp_path / ".model.safetensors.unfinished").write_text("of an export that was killed")
    export_model(checkpoint_of(tmp_path, written, ranks), target)
    read = load_file(target)
    Tied().load_state_dict(read)
    assert all(torch.equal(read[name], value) for name, value in written.state_dict().items())
    assert not list(tmp_path.glob(".model*"))


@pytest.mark.parametrize("ranks", [0, 2])
def test_a_damaged_model_is_not_exported(tmp_path: Path, ranks: int) -> None:
    folder = checkpoint_of(tmp_path, Tied(), ranks)
    model = folder / ("model_00001.safetensors" if ranks else "model.safetensors")
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    with pytest.raises(BadCheckpointError, match="checksum"):
        export_model(folder, tmp_path / "model.safetensors")
    assert not list(tmp_path.glob("*model*"))
