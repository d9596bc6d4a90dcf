"""Files of tensors are what the safetensors library reads, bit for bit, with the checksum of their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launcher.rundir.durable import write_durably
from launcher.worker.tensor_file import tensor_file

KINDS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.complex64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def test_what_the_library_reads_is_what_was_written(tmp_path: Path) -> None:
    bits = torch.randint(0, 256, (3, 5, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tensors = {str(kind): (bits > 99) if kind is torch.bool else bits.view(kind) for kind in KINDS}
    tensors |= {
        "number": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "ä": torch.ones(2),
        "large": torch.rand(1500000),
    }
    path = tmp_path / "it.safetensors"
    facts = write_durably(path, tensor_file(tensors))
    content = path.read_bytes()
    assert (facts.bytes, facts.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        as_bytes = [one.flatten().view(torch.uint8) if one.numel() else one for one in (read[name], tensor)]
        assert torch.equal(*as_bytes), name


def test_a_type_that_the_format_lacks_is_named() -> None:
    with pytest.raises(TypeError, match=r"weight is of torch\.complex128"):
        list(tensor_file({"weight": torch.zeros(2, dtype=torch.complex128)}))
