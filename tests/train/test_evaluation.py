from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from launcher.train.engines.single import SingleEngine
from launcher.train.evaluation import MOST
from launcher.train.task import Measured, Task
from tests.evaluations import evaluate

LENGTHS = [1 + (index * index) % 7 for index in range(MOST + 30)]  # more than one batch, of unequal lengths
PADDING = 1000.0


class Padded(Task):
    """Measures every number of samples of unequal length, padded with what must not count."""

    def collate(self, samples: list[Tensor]) -> Tensor:
        return pad_sequence(samples, batch_first=True, padding_value=PADDING)

    def evaluate(self, model: nn.Module, batch: Tensor) -> dict[str, Measured]:
        real = batch != PADDING
        return {"number": (batch, real), "squared": (batch.square(), 2.5 * real), "nothing": (batch, 0 * real)}


class Mismatched(Task):
    """Gives a weight to a sample where it has three values."""

    def collate(self, samples: list[Tensor]) -> Tensor:
        return torch.zeros(len(samples))

    def evaluate(self, model: nn.Module, batch: Tensor) -> dict[str, Measured]:
        return {"number": (torch.ones(len(batch), 3), torch.ones(len(batch)))}


def evaluated(task: Task, batch: int = MOST) -> dict[str, float]:
    data = [torch.full((length,), float(length)) for length in LENGTHS]
    return evaluate(task, data, SingleEngine(nn.Linear(1, 1), torch.device("cpu")), batch=batch)


def test_a_weighted_mean_is_over_what_is_not_padding() -> None:
    numbers = sum(LENGTHS)
    found = evaluated(Padded())
    assert found["number"] == pytest.approx(sum(length**2 for length in LENGTHS) / numbers, rel=1e-12)
    assert found["squared"] == pytest.approx(sum(length**3 for length in LENGTHS) / numbers, rel=1e-12)


def test_a_mean_does_not_hang_on_the_batch() -> None:
    found, whole = evaluated(Padded(), batch=7), evaluated(Padded())
    assert found == pytest.approx(whole, rel=1e-12)


def test_a_forward_pass_has_so_many_samples_at_most() -> None:
    with pytest.raises(ValueError, match=r"of the shape \[5, 3\]"):
        evaluated(Mismatched(), batch=5)


def test_the_mean_of_nothing_is_left_out() -> None:
    assert set(evaluated(Padded())) == {"number", "squared"}


def test_weights_have_the_shape_of_the_values() -> None:
    shapes = rf"'number' has values of the shape \[{MOST}, 3\] and weights of the shape \[{MOST}\]"
    with pytest.raises(ValueError, match=shapes):
        evaluated(Mismatched())


def test_every_module_gets_its_own_mode_back() -> None:
    """A part that is frozen may be at rest while the rest is trained."""
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout(), nn.Linear(1, 1))
    model[0].eval()
    data = [torch.full((1,), 1.0)]
    evaluate(Padded(), data, SingleEngine(model, torch.device("cpu")))
    assert [module.training for module in model.modules()] == [True, False, True, True]
