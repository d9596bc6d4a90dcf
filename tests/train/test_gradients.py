from __future__ import annotations

import pytest
import torch

from launcher.train.engines.gradients import clip_to_norm, l2_norm, padded_elements, part_of_rank, squared_norm


@pytest.mark.parametrize("size", [1, 1000, 2**14 - 1, 2**14, 2**16, 10_000_001])
def test_norm_is_right_to_the_last_digits(size: int) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(0))
    assert float(l2_norm(values)) == pytest.approx(float(values.double().norm()), rel=5e-7)


def test_gradients_are_scaled_to_the_norm_and_only_down() -> None:
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    assert float(clip_to_norm(gradients, 10.0)) == 25.0  # the square
    assert gradients[0].tolist() == [3.0, 0.0]
    assert float(squared_norm(gradients)) == 25.0
    assert float(clip_to_norm(gradients, 1.0)) == 25.0
    assert float(l2_norm(torch.cat([gradient.flatten() for gradient in gradients]))) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_the_parts_of_the_ranks_are_the_whole(world_size: int) -> None:
    flat = [torch.arange(1.0, 6.0), torch.ones(1), torch.ones(2)]
    parts = [squared_norm(part_of_rank(flat, rank, world_size)) for rank in range(world_size)]
    assert float(torch.stack(parts).sum()) == pytest.approx(float(squared_norm(flat)))


@pytest.mark.parametrize(
    ("shape", "shards", "elements"), [((5,), 2, 6), ((4, 3), 2, 12), ((3, 2), 2, 8), ((), 3, 3), ((1, 7), 4, 28)]
)
def test_parts_are_filled_up_to_equal_rows(shape: tuple[int, ...], shards: int, elements: int) -> None:
    assert padded_elements(shape, shards) == elements
