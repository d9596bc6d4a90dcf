from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from launcher.worker.tf32 import use_tf32


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    matrices, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matrices, convolutions


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wanted", [True, False])
def test_matrices_and_convolutions_are_told(wanted: bool) -> None:
    """In a way that PyTorch's older and newer questions have one answer to; the compiler asks both."""
    use_tf32(wanted)
    assert (torch.backends.cuda.matmul.fp32_precision == "tf32") is wanted
    assert (torch.backends.cudnn.conv.fp32_precision == "tf32") is wanted  # type: ignore[attr-defined]  # made by a class
    assert (torch.get_float32_matmul_precision() == "high") is wanted
    assert torch._C._get_cublas_allow_tf32() is wanted
