from __future__ import annotations

import pytest

from launcher.plan.noise import BatchNoise


@pytest.mark.parametrize(
    ("batch", "noise_scale", "side"),
    [
        (256, 513.0, "below"),
        (256, 512.0, "near"),
        (256, 128.0, "near"),
        (256, 127.9, "above"),
        (1, 0.0, "above"),
        (1, 1e18, "below"),
    ],
)
def test_near_is_within_a_factor_of_two(batch: int, noise_scale: float, side: str) -> None:
    assert BatchNoise(batch, noise_scale).side == side


@pytest.mark.parametrize(
    ("noise_scale", "samples"), [(0.0, 1), (0.4, 1), (7.6, 8), (73.2, 73), (1849.0, 1800), (123_456.0, 120_000)]
)
def test_two_digits_are_worth_writing_down(noise_scale: float, samples: int) -> None:
    noise = BatchNoise(256, noise_scale)
    assert noise.samples == samples
    assert noise.setting == f"noise_scale.measured={samples}"


def test_in_words() -> None:
    assert BatchNoise(256, 1849.0).sentence == (
        "about 1,800 samples; the global batch of 256 is below it: a larger batch still saves updates nearly in "
        "proportion"
    )
    assert BatchNoise(2048, 1849.0).sentence == (
        "about 1,800 samples; the global batch of 2,048 is within a factor of 2 of it: about here more samples per "
        "update begin to pay less"
    )
    assert BatchNoise(256, 0.0).sentence == (
        "about 1 sample; the global batch of 256 is above it: more samples per update buy little"
    )
