from __future__ import annotations

import pytest
import torch

from launcher.train.engines.gradients import clip_to_norm, l2_norm


@pytest.mark.parametrize("size", [1, 1000, 2**14 - 1, 2**14, 2**16, 10_000_001])
def test_norm_is_right_to_the_last_digits(size: int) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(0))
    assert float(l2_norm(values)) == pytest.approx(float(values.double().norm()), rel=5e-7)


def test_gradients_are_scaled_to_the_norm_and_only_down() -> None:
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    assert float(clip_to_norm(gradients, 10.0)) == 5.0
    assert gradients[0].tolist() == [3.0, 0.0]
    assert float(clip_to_norm(gradients, None)) == 5.0
    assert float(clip_to_norm(gradients, 1.0)) == 5.0
    assert float(l2_norm(torch.cat([gradient.flatten() for gradient in gradients]))) == pytest.approx(1.0, rel=1e-5)
