from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from launcher import Loss
from tests.processes import ROOT
from tests.recipes.modules import module_of

SHAPES = {"class": (6, 10), "parity": (6, 2), "reconstruction": (6, 64)}


@pytest.fixture(scope="module")
def task() -> Any:
    return module_of(ROOT / "recipes" / "multitask" / "task.py").Multitask(hidden=8)


@pytest.fixture(scope="module")
def batch(task: Any) -> list[Tensor]:
    return [column[:6] for column in task.train_data().tensors]


@pytest.fixture
def model(task: Any) -> Any:
    torch.manual_seed(0)
    return task.model()


def named(losses: Any) -> dict[str, float]:
    found = list(losses)
    assert all(isinstance(loss, Loss) and loss.value.ndim == 0 and loss.reduction == "mean" for loss in found)
    return {loss.name: float(loss.value.detach()) for loss in found}


def test_heads_answer_each_in_its_shape(model: Any, batch: list[Tensor]) -> None:
    assert {name: tuple(answers.shape) for name, answers in model(batch[0]).items()} == SHAPES


def test_both_ways_give_the_same_losses(task: Any, model: Any, batch: list[Tensor]) -> None:
    apart = named(task.loss(model, batch))
    shared = named(task.heads(model, task.trunk(model, batch), batch))
    assert list(apart) == list(SHAPES)
    assert shared == pytest.approx(apart)


def test_each_loss_has_a_graph_of_its_own(task: Any, model: Any, batch: list[Tensor]) -> None:
    """Its backward frees the graph before the next forward: a shared one would fail here."""
    for loss in task.loss(model, batch):
        loss.value.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_measurements_are_one_number_of_each_sample(task: Any, model: Any, batch: list[Tensor]) -> None:
    with torch.no_grad():
        measured = task.evaluate(model, batch)
    assert {name: tuple(values.shape) for name, values in measured.items()} == {
        "accuracy": (6,),
        "parity_accuracy": (6,),
        "reconstruction_error": (6,),
    }
    losses = named(task.loss(model, batch))
    assert float(measured["reconstruction_error"].mean()) == pytest.approx(losses["reconstruction"])


def test_data_is_that_of_the_digits(task: Any) -> None:
    digits = module_of(ROOT / "recipes" / "digits" / "task.py").Digits()
    pairs = [(task.train_data(), digits.train_data()), (task.eval_data(), digits.eval_data())]
    for own, of_digits in pairs:
        assert all(torch.equal(one, other) for one, other in zip(own.tensors, of_digits.tensors, strict=True))
