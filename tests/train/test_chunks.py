"""Parts of tensors lie where they say."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from launcher.train.chunks import Part

SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@given(SHAPES, st.data())
def test_stretches_of_any_tensor_make_up_the_whole_and_share_its_memory(
    shape: tuple[int, ...], data: st.DataObject
) -> None:
    size = prod(shape)
    cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=4))})
    flat = torch.arange(float(size))
    whole = torch.full(shape, -1.0)
    for first, end in pairwise(cuts):
        own = flat[first:end]
        part = Part.stretch(torch.Size(shape), first, own)
        assert part.shape == shape
        assert len(part.chunks) <= max(1, 2 * len(shape) - 1)
        for chunk in part.chunks:
            box = tuple(slice(at, at + length) for at, length in zip(chunk.offsets, chunk.values.shape, strict=True))
            assert bool((whole[box] == -1.0).all())
            whole[box] = chunk.values
            assert chunk.values.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
            assert chunk.values.is_contiguous()
    assert torch.equal(whole.flatten(), flat)


@pytest.mark.parametrize("first", [0, 3])
def test_a_rank_may_have_no_rows(first: int) -> None:
    assert Part.rows(torch.Size([3, 2]), first, torch.empty(0, 2)).chunks == ()
    assert Part.stretch(torch.Size([3, 2]), 6, torch.empty(0)).chunks == ()
