"""Tensors that several ranks have written in parts are read whole or in other parts, and never by running code."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from launcher.rundir.manifest import BadCheckpointError
from launcher.rundir.stored_tensors import StoredChunk
from launcher.train.chunks import Chunk, Part, Parts
from launcher.train.snapshot import Tensors
from launcher.worker import chunk_storage
from launcher.worker.checkpoint_files import MODEL, Captured
from launcher.worker.kept_tensors import KeptTensors

SHAPES = {"weight": (5, 3, 2), "bias": (7,), "step": (), "half": (4, 4), "none": (0, 3)}
TYPES = {"half": torch.bfloat16}
_NOTHING = Tensors({}, {})


def tensors() -> dict[str, Tensor]:
    made = {}
    for name, shape in SHAPES.items():
        made[name] = (torch.arange(float(prod(shape))).view(shape) + 1).to(TYPES.get(name, torch.float32))
    return made


def in_stretches(whole: dict[str, Tensor], rank: int, world: int) -> dict[str, Part]:
    """As many elements of each as the ranks have of it; what is single, or empty, is kept by rank 0."""
    parts = {}
    for name, tensor in whole.items():
        size = -(-tensor.numel() // world)
        if tensor.numel() < 2:
            parts[name] = Part.whole(tensor) if rank == 0 else Part(tensor.shape)
        else:
            first = min(rank * size, tensor.numel())
            parts[name] = Part.stretch(tensor.shape, first, tensor.flatten()[first : first + size])
    return parts


def in_rows(whole: dict[str, Tensor], rank: int, world: int) -> dict[str, Part]:
    parts = {}
    for name, tensor in whole.items():
        if tensor.numel() < 2:
            parts[name] = Part.whole(tensor) if rank == 0 else Part(tensor.shape)
        else:
            rows = -(-len(tensor) // world)
            parts[name] = Part.rows(
                tensor.shape, min(rank * rows, len(tensor)), tensor[rank * rows : rank * rows + rows]
            )
    return parts


def written(folder: Path, ranks: Sequence[dict[str, Part]]) -> KeptTensors:
    for rank, parts in reversed(list(enumerate(ranks))):
        captured = Captured(1, Parts(parts, {}), _NOTHING, {})
        files = captured.write_parts(folder, rank)
        assert set(files) <= {path.name for path in folder.iterdir()}
    captured.write(folder)
    return KeptTensors(folder, MODEL, {})


@pytest.mark.parametrize("shared_out", [in_stretches, in_rows])
@given(before=st.integers(1, 9), now=st.integers(1, 9))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_other_ranks_and_other_layouts_read_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, shared_out: object, before: int, now: int
) -> None:
    write, read = (in_stretches, in_rows) if shared_out is in_stretches else (in_rows, in_stretches)
    whole = tensors()
    kept = written(tmp_path_factory.mktemp("kept"), [write(whole, rank, before) for rank in range(before)])
    assert {name: (like.shape, like.dtype) for name, like in kept.like.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in whole.items()
    }
    found = kept.whole().tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    assert torch.equal(kept.one("weight"), whole["weight"])
    other = {name: torch.zeros_like(tensor) for name, tensor in whole.items()}
    for rank in range(now):
        kept.fill(read(other, rank, now).items())
    assert all(torch.equal(other[name], tensor) for name, tensor in whole.items())


def test_what_was_written_whole_is_read_in_parts(tmp_path: Path) -> None:
    whole = tensors()
    Captured(1, Tensors(whole, {}), _NOTHING, {}).write(tmp_path)
    kept, other = KeptTensors(tmp_path, MODEL, {}), {name: torch.zeros_like(it) for name, it in whole.items()}
    for rank in range(3):
        kept.fill(in_stretches(other, rank, 3).items())
    assert all(torch.equal(other[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("whole_file", [True, False])
def test_a_rank_reads_its_parts_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_file: bool) -> None:
    whole, read = tensors(), list[int]()

    def counting(opened: Any, chunk: StoredChunk, item: Any) -> Tensor:
        values = really(opened, chunk, item)
        read.append(values.numel())
        return values

    really = chunk_storage._read
    monkeypatch.setattr(chunk_storage, "_read", counting)
    if whole_file:
        Captured(1, Tensors(whole, {}), _NOTHING, {}).write(tmp_path)
    else:
        written(tmp_path, [in_stretches(whole, rank, 3) for rank in range(3)])
    parts = in_rows({name: torch.zeros_like(tensor) for name, tensor in whole.items()}, 1, 4)
    KeptTensors(tmp_path, MODEL, {}).fill(parts.items())
    assert sum(read) == sum(chunk.values.numel() for part in parts.values() for chunk in part.chunks) == 12 + 2 + 4


def test_one_tensor_fills_several_parts_and_is_converted(tmp_path: Path) -> None:
    whole = tensors()
    kept = written(tmp_path, [in_rows(whole, rank, 2) for rank in range(2)])
    one, other = torch.zeros(7), torch.zeros(7, dtype=torch.bfloat16)
    kept.fill([("bias", Part.whole(one)), ("bias", Part.whole(other))])
    assert torch.equal(one, whole["bias"])
    assert torch.equal(other, whole["bias"].to(torch.bfloat16))


def test_each_rank_writes_its_own_part_only(tmp_path: Path) -> None:
    written(tmp_path, [in_rows(tensors(), rank, 2) for rank in range(2)])
    elements = []
    for rank in range(2):
        with safe_open(tmp_path / f"model_{rank:05d}.safetensors", framework="pt") as file:
            elements.append(sum(file.get_tensor(key).numel() for key in file.keys()))  # noqa: SIM118  # no mapping
    assert elements == [18 + 4 + 1 + 8, 12 + 3 + 8]


def test_a_rank_whose_part_is_missing_is_seen_before_the_checkpoint_is_one(tmp_path: Path) -> None:
    parts = in_rows(tensors(), 0, 2)
    with pytest.raises(BadCheckpointError, match="weight has 18 elements in it instead of 30"):
        written(tmp_path, [parts])


def test_a_part_that_is_there_twice_is_seen(tmp_path: Path) -> None:
    one, other = ({"bias": Part.rows(torch.Size([7]), first, torch.ones(4))} for first in (0, 3))
    with pytest.raises(BadCheckpointError, match="bias has 8 elements in it instead of 7"):
        written(tmp_path, [one, other])


@pytest.mark.parametrize("shape", [(8,), (7, 1)])
def test_a_tensor_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    kept = written(tmp_path, [in_rows(tensors(), rank, 2) for rank in range(2)])
    with pytest.raises(ValueError, match="bias has another shape"):
        kept.fill([("bias", Part.whole(torch.zeros(shape)))])


def test_what_lies_in_a_gap_is_refused(tmp_path: Path) -> None:
    part = Part(torch.Size([7]), (Chunk((0,), torch.ones(3)),))
    Captured(1, Parts({"bias": part}, {}), _NOTHING, {}).write_parts(tmp_path, 0)
    with pytest.raises(ValueError, match="not all of bias"):
        KeptTensors(tmp_path, MODEL, {}).fill([("bias", Part.whole(torch.zeros(7)))])


def test_no_file_is_a_pickle_and_none_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own storage would pickle what it knows of the tensors."""

    def refuse(*arguments: object, **options: object) -> object:
        raise AssertionError("a pickle")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = written(tmp_path, [in_rows(tensors(), rank, 2) for rank in range(2)])
        assert torch.equal(kept.whole().tensors["bias"], tensors()["bias"])
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}


def test_a_disk_that_fails_is_an_error_of_the_system(tmp_path: Path) -> None:
    captured = Captured(1, Parts(in_rows(tensors(), 0, 1), {}), _NOTHING, {})
    with pytest.raises(FileNotFoundError):
        captured.write_parts(tmp_path / "nowhere", 0)
