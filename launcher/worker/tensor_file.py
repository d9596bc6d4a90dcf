"""Tensors as the bytes of a safetensors file, in pieces, without a copy of them all.

The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from launcher.rundir.stored_tensors import METADATA

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {name: dtype for dtype, name in _NAMES.items()}
"""What safetensors calls them → torch's types."""
_ALIGNED = 8  # bytes; the largest items come first, so that each begins at a multiple of its size


def tensor_file(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The pieces of the file, one tensor after the other.

    Args:
        tensors: of any shape, contiguous, on any device.
        metadata: what the file is to say besides.

    Raises:
        TypeError: the format has no such type.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    yield _head(ordered, metadata)
    for _, tensor in ordered:
        if tensor.numel():
            yield tensor.detach().cpu().flatten().view(torch.uint8).numpy().data


def refuse_other_types(tensors: Mapping[str, Tensor]) -> None:
    """Make sure that a file can hold tensors, without writing it.

    Raises:
        TypeError: the format has no such type.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise TypeError(f"{name} is of {tensor.dtype}: checkpoints have no such tensors")


def _head(ordered: list[tuple[str, Tensor]], metadata: Mapping[str, str] | None) -> bytes:
    refuse_other_types(dict(ordered))
    entries: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text
