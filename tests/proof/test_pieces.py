"""The pieces of a proof, without a launch."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from launcher.launch.environ import allocator_environment
from launcher.plan.windows import MicroBatch, Window
from launcher.train.proof.bench import micro_batches, slices
from launcher.train.proof.chance import SeededForward, who_draws, without_chance
from launcher.train.proof.comparison import compare, take_gradient
from launcher.train.proof.loss_shape import SETS, Values
from launcher.train.proof.memory import Fit, is_out_of_memory
from launcher.train.proof.mixing import first_mixing_layer
from launcher.train.proof.precision import default_type, set_types, types_of
from launcher.train.proof.switches import Switches
from tests.processes import clean_environment

ONES = torch.ones(6, 8)
SEQUENCE = torch.ones(2, 5, 8)
DRAWS: dict[str, Callable[[], Tensor]] = {
    "dropout": lambda: functional.dropout(ONES, 0.5),
    "dropout in place": lambda: functional.dropout(ONES.clone(), 0.5, inplace=True),
    "alpha dropout": lambda: functional.alpha_dropout(ONES, 0.5, training=True),
    "channels": lambda: functional.dropout1d(SEQUENCE, 0.5),
    "attention": lambda: functional.scaled_dot_product_attention(SEQUENCE, SEQUENCE * 2, SEQUENCE, dropout_p=0.5),
    "rrelu": lambda: functional.rrelu(-ONES, training=True),
    "rand": lambda: torch.rand(3),
    "rand_like": lambda: torch.rand_like(ONES),
    "randn": lambda: torch.randn(3),
    "normal of tensors": lambda: torch.normal(ONES, ONES),
    "uniform_": lambda: torch.empty(3).uniform_(2, 4),
    "randint": lambda: torch.randint(3, 90, (3,)),
    "randperm": lambda: torch.randperm(20),
    "bernoulli of tensor": lambda: torch.bernoulli(ONES / 2),
    "bernoulli_ of tensor": lambda: torch.empty(6, 8).bernoulli_(ONES / 2),
    "multinomial": lambda: torch.multinomial(torch.ones(50), 2),
    "exponential": lambda: functional.gumbel_softmax(ONES),
    "own generator": lambda: torch.rand(3, generator=torch.Generator().manual_seed(random.randrange(10**6))),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_without_chance_every_draw_is_the_same(draw: Callable[[], Tensor]) -> None:
    torch.manual_seed(0)
    random.seed(0)
    assert not torch.equal(draw(), draw())
    with without_chance():
        assert torch.equal(draw(), draw())


def test_without_chance_dropout_drops_nothing() -> None:
    inputs = torch.randn(4, 8, requires_grad=True)
    with without_chance():
        torch.autograd.backward(functional.dropout(inputs, 0.5).sum())
        assert torch.equal(functional.dropout(inputs, 0.5), inputs)
    assert torch.equal(inputs.grad if inputs.grad is not None else ONES, torch.ones(4, 8))


class Draws(nn.Module):
    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.draw = draw

    def forward(self, inputs: Tensor) -> Tensor:
        return self.draw(self.inner(inputs))


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1)), ("1 (Dropout)",)),
        (nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1)).eval(), ()),
        (nn.TransformerEncoderLayer(8, 2, 16, 0.0), ()),
        (nn.TransformerEncoderLayer(8, 2, 16, 0.1), ("self_attn (MultiheadAttention)", "dropout1 (Dropout)")),
        (nn.Sequential(Draws(lambda hidden: hidden * torch.rand(1))), ("0 (Draws)",)),
        (nn.Sequential(Draws(lambda hidden: hidden * random.random())), ("0 (Draws)",)),
        (nn.Sequential(Draws(lambda hidden: hidden * np.random.random())), ("0 (Draws)",)),
        (Draws(functional.dropout), ("the model itself (Draws)",)),
    ],
)
def test_who_draws_is_named(model: nn.Module, names: tuple[str, ...]) -> None:
    def forward() -> None:
        with SeededForward(1):
            model(ONES)

    assert who_draws(model, forward, 1)[:2] == names


def test_draws_of_the_loss_are_named() -> None:
    model = nn.Linear(8, 8)
    assert who_draws(model, lambda: functional.dropout(model(ONES)), 1) == ("Task.loss",)


def test_batchnorm_is_frozen_and_put_back() -> None:
    model = nn.Sequential(nn.BatchNorm1d(8), nn.BatchNorm1d(8, track_running_stats=False))
    batch = torch.randn(6, 8) + 3
    with Switches(batch_statistics=False).applied(model):
        assert torch.allclose(model(batch)[:2], model(batch[:2]))
    assert not torch.allclose(model(batch)[:2], model(batch[:2]))
    first, second = model
    assert isinstance(first, nn.BatchNorm1d)
    assert isinstance(second, nn.BatchNorm1d)
    assert first.training
    assert second.running_mean is None


def test_buffers_are_put_back() -> None:
    model = nn.BatchNorm1d(8)
    with Switches().applied(model):
        model(torch.randn(6, 8) + 3)
        assert model.num_batches_tracked == 1
    assert model.num_batches_tracked == 0
    assert torch.equal(model.running_mean if model.running_mean is not None else ONES, torch.zeros(8))


def gradient(**parts: list[float]) -> dict[str, Tensor]:
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in parts.items()}


def test_error_is_that_of_the_whole_gradient() -> None:
    comparison = compare(gradient(a=[3.0, 4.5], b=[0.0]), gradient(a=[3.0, 4.0], b=[0.0]), "float64")
    assert comparison.error == pytest.approx(0.1)
    assert [parameter.name for parameter in comparison.worst] == ["a", "b"]
    assert comparison.worst[0].share == pytest.approx(0.1)


def test_a_gradient_that_is_missing_counts_as_zero() -> None:
    assert compare({}, gradient(a=[3.0]), "float64").error == 1
    assert compare(gradient(a=[3.0]), {}, "float64").error == math.inf
    assert compare({}, {}, "float64").error == 0


def test_a_small_wrong_parameter_gives_itself_away() -> None:
    """It is a ten-thousandth of the gradient, and half of it is wrong: in the whole that is rounding."""
    found, true = gradient(large=[1.0], small=[1.5e-5]), gradient(large=[1.0], small=[1e-5])
    comparison = compare(found, true, "float32")
    assert comparison.error < 1e-5
    assert comparison.judged == pytest.approx(0.5)


def test_rounding_of_a_gradient_that_is_zero_is_none() -> None:
    assert compare(gradient(large=[1.0], zero=[1e-8]), gradient(large=[1.0], zero=[0.0]), "float32").judged < 1e-7


def test_what_is_not_finite_is_named() -> None:
    comparison = compare(gradient(a=[math.nan], b=[1.0]), gradient(a=[1.0], b=[1.0]), "float32")
    assert comparison.not_finite == ("a",)
    assert math.isnan(comparison.error)
    assert comparison.worst[0].share is None


def test_a_gradient_is_taken_and_gone() -> None:
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    taken = take_gradient(model)
    assert set(taken) == {"weight", "bias"}
    assert model.weight.grad is None


def values(loss: Callable[[list[float]], float], reduction: str, items: Callable[[list[float]], int]) -> Values:
    groups = {"A": [1.0, 2.0, 4.0], "B": [3.0], "C": [7.0, 5.0]}
    batches = {name: [number for group in name for number in groups[group]] for name in SETS}
    return Values(
        reduction,
        {name: loss(batch) for name, batch in batches.items()},
        {name: items(batch) for name, batch in batches.items()},
    )


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def test_what_kind_of_number_a_loss_is() -> None:
    right = values(mean, "mean", len)
    assert right.adds_up_as("mean", 1e-9)
    assert not right.adds_up_as("sum", 1e-9)
    summed = values(sum, "mean", len)
    assert summed.adds_up_as("sum", 1e-9)
    assert not summed.adds_up_as("mean", 1e-9)
    of_means = values(mean, "mean", lambda batch: 1)
    assert not of_means.adds_up_as("mean", 1e-9)
    assert of_means.hidden_weights() == pytest.approx((1, 1 / 3, 2 / 3))
    mixing = values(lambda batch: mean(batch) * max(batch), "mean", len)
    assert not mixing.adds_up_as("mean", 1e-9)
    assert mixing.hidden_weights() is None


def window(samples: int, micro: int, world: int) -> Window:
    return Window(update=0, epoch=0, first=10, samples=samples, micro=micro, world_size=world, samples_seen=samples)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 6, 8, 12, 24])
def test_slices_are_the_window_and_not_its_micro_batches(most: int) -> None:
    whole = window(24, 4, 2)
    parts = slices(whole, most)
    assert [position for part in parts for position in range(part.first, part.first + part.samples)] == list(
        range(10, 34)
    )
    assert max(part.samples for part in parts) <= most
    assert parts != micro_batches(whole)
    assert len(parts) == -(-24 // most) + (most == 4)
    assert slices(window(3, 1, 1), 1) == [MicroBatch(10, 1), MicroBatch(11, 1), MicroBatch(12, 1)]


def test_what_fits_is_guessed_and_halved() -> None:
    fit = Fit(10**9, torch.device("cpu"))
    fit.halve()
    assert fit.samples == 5 * 10**8
    held = torch.ones(2**24)  # 64 MiB for a micro-batch of 4
    fit.learn(4)
    assert 1 <= fit.samples < 10**8
    guess = fit.samples
    fit.learn(400)
    assert fit.samples == guess
    fit.double_width()
    assert fit.samples == guess // 2
    assert len(held)


def test_memory_that_is_free_but_kept_is_not_taken_for_none_at_all() -> None:
    """A rank on CPUs keeps what it has freed, and a micro-batch may live in it without a page more."""
    script = """
import torch
from launcher.train.proof.memory import Fit
def take(): return [torch.zeros(4 * 2**20) for _ in range(20)]  # 320 MiB
take()
fit = Fit(10**12, torch.device("cpu"))
take()
fit.learn(1)
print(fit.samples)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment(**allocator_environment({})),
        capture_output=True,
        check=True,
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 1 <= int(done.stdout) <= memory // (320 * 2**20)


def test_all_samples_fit_until_something_says_otherwise() -> None:
    fit = Fit(16, torch.device("cpu"))
    fit.double_width()
    assert fit.samples == 16
    fit.halve()
    assert fit.samples == 8
    for _ in range(9):
        fit.halve()
    assert fit.samples == 1


def test_signs_of_full_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60)
    assert is_out_of_memory(refused.value)
    assert not is_out_of_memory(RuntimeError("no such layer"))


class Mixing(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.mean(dim=0)


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Tanh(), Mixing()), nn.Linear(8, 8)), "1.1 (Mixing)"),
        (nn.Sequential(nn.Linear(8, 8), nn.Tanh()), None),
    ],
)
def test_the_first_layer_that_mixes_samples(model: nn.Module, found: str | None) -> None:
    batch = torch.randn(6, 8)
    assert first_mixing_layer(model, lambda: model(batch[:2]), lambda: model(batch), 2, 1e-5) == found


def test_padding_behind_the_samples_is_no_mixing() -> None:
    model = nn.Linear(8, 8)
    short, padded = torch.ones(2, 3, 8), torch.ones(4, 5, 8)
    assert first_mixing_layer(model, lambda: model(short), lambda: model(padded), 2, 1e-5) is None


def test_types_are_put_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to(torch.bfloat16)
    before = types_of(model)
    parameters = list(model.parameters())
    model.double()
    set_types(model, before)
    assert types_of(model) == before
    assert [id(parameter) for parameter in model.parameters()] == [id(parameter) for parameter in parameters]


def test_default_type_is_put_back_after_an_exception() -> None:
    with pytest.raises(ValueError, match="no"), default_type(torch.float64):
        assert torch.zeros(1).dtype == torch.float64
        raise ValueError("no")
    assert torch.zeros(1).dtype == torch.float32
