from __future__ import annotations

import pytest
import torch

from launcher.train.guard import checksum


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.uint8])
@pytest.mark.parametrize("size", [1, 3, 8, 2047, 5000])
def test_a_change_of_any_value_changes_the_checksum(dtype: torch.dtype, size: int) -> None:
    values = (torch.randn(size, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)
    before = checksum(values)
    assert before.dtype == torch.int64
    assert checksum(values.clone()) == before
    for place in {0, size // 2, size - 1}:
        changed = values.clone()
        changed[place] += 1
        assert checksum(changed) != before


def test_an_exchange_of_two_values_changes_the_checksum() -> None:
    values = torch.arange(5000.0)
    for one, other in ((7, 4000), (2, 2048), (4, 2050), (0, 1)):
        exchanged = values.clone()
        exchanged[[one, other]] = values[[other, one]]
        assert checksum(exchanged) != checksum(values)


def test_a_transposed_matrix_has_another_checksum() -> None:
    matrix = torch.randn(1024, 1024, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert checksum(matrix.T) != checksum(matrix)


def test_a_tensor_without_values_or_at_an_odd_place_has_one() -> None:
    values = torch.arange(100.0)
    assert checksum(torch.empty(0)) == 0
    assert checksum(values[1:]) == checksum(values[1:].clone())
