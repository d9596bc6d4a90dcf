from __future__ import annotations

from typing import Any

import pytest
import torch

from launcher import Loss, Task
from launcher.plan.learning_rate import LearningRatePlan, RateStage
from launcher.recipe.schema import MultitaskSection, OptimizerSection
from launcher.train.job import build_materials
from launcher.train.optimizer import build_optimizer, set_learning_rate
from launcher.train.task_losses import TaskLosses
from launcher.train.weighing import weight


def test_what_a_task_leaves_out_is_named() -> None:
    with pytest.raises(NotImplementedError, match=r"Task.model is not written: return the nn.Module to train"):
        Task().model()


class Given(Task):
    """A task that answers what it is given."""

    def __init__(self, losses: Any = None, items: Any = None) -> None:
        self.given_losses, self.given_items = losses, items

    def loss(self, model: Any, batch: Any) -> Any:
        return self.given_losses

    def items(self, batch: Any) -> Any:
        return self.given_items


ONE = torch.tensor(1.0)
TWO = MultitaskSection(losses={"a": 1.0, "b": 2.0})


def losses_of(given: Any, section: MultitaskSection) -> list[Loss]:
    return list(TaskLosses(Given(given), section).all(torch.nn.Linear(1, 1), None))


@pytest.mark.parametrize(
    ("given", "section", "message"),
    [
        (
            torch.ones(3),
            MultitaskSection(),
            r"must give a scalar, not a tensor of shape \[3\]: take its mean",
        ),
        (0.5, MultitaskSection(), "Task.loss must return a scalar tensor or a Loss, or yield Losses, not float"),
        ([0.5], MultitaskSection(), "Task.loss must yield Losses, not float"),
        ([Loss(ONE, name="a"), Loss(ONE, name="b")], MultitaskSection(), "give their weights in the recipe, such as"),
        ([Loss(ONE, name="a")], TWO, "gave no loss of the name b, which multitask.losses has"),
        ([Loss(ONE, name="a"), Loss(ONE, name="a")], TWO, "the loss 'a' twice for one micro-batch: add the two"),
        ([Loss(ONE, name="a"), Loss(ONE, name="c")], TWO, "a loss of the name 'c', but multitask.losses has a, b"),
    ],
)
def test_losses_that_are_wrong_are_refused(given: Any, section: MultitaskSection, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        losses_of(given, section)


def test_losses_come_as_a_tensor_a_loss_or_several() -> None:
    assert losses_of(ONE, MultitaskSection()) == [Loss(ONE)]
    assert losses_of(Loss(ONE, "sum", "mine"), MultitaskSection()) == [Loss(ONE, "sum")]
    assert [loss.name for loss in losses_of(iter([Loss(ONE, name="b"), Loss(ONE, name="a")]), TWO)] == ["b", "a"]


@pytest.mark.parametrize(
    ("given", "section", "items"),
    [
        (None, TWO, {"a": 9, "b": 9}),
        (5, MultitaskSection(), {"loss": 5}),
        (torch.tensor(5), TWO, {"a": 5, "b": 5}),
        ({"b": torch.tensor(3)}, TWO, {"a": 9, "b": 3}),
    ],
)
def test_items_are_counted_by_loss(given: Any, section: MultitaskSection, items: dict[str, int]) -> None:
    assert TaskLosses(Given(items=given), section).items(None, samples=9) == items


def test_items_that_are_wrong_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Task.items counts c, but the losses are a, b"):
        TaskLosses(Given(items={"c": 1}), TWO).items(None, samples=9)
    with pytest.raises(ValueError, match="must not be negative"):
        TaskLosses(Given(items=-1), TWO).items(None, samples=9)


def test_weights_add_up_to_one_however_the_window_is_split() -> None:
    mean, total = Loss(torch.tensor(0.0)), Loss(torch.tensor(0.0), "sum")
    assert sum(weight(mean, items, 250) for items in (32, 32, 32, 32, 32, 32, 32, 26)) == pytest.approx(1.0)
    assert weight(total, 26, 250) == 1 / 250


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_groups_keep_their_own_rate_under_scaling_and_schedule(name: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[1].parameters()}]
    section = OptimizerSection.model_validate({"name": name, "lr": 0.1, "weight_decay": 0.01})
    rate = LearningRatePlan(base=0.1, scale=2.0, shape="constant", warmup_updates=0, updates=9, final=0.0)
    optimizer = build_optimizer(section, groups, model, rate)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.05]
    assert all(group["fused"] for group in optimizer.param_groups)


def test_parameters_with_gradients_that_no_group_holds_are_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    rate = LearningRatePlan(base=0.1, scale=1.0, shape="constant", warmup_updates=0, updates=9, final=0.0)
    with pytest.raises(ValueError, match=r"leaves out 2 parameters that have gradients, such as 0.weight"):
        build_optimizer(OptimizerSection(), model[1].parameters(), model, rate)
    model[0].requires_grad_(False)
    build_optimizer(OptimizerSection(), model[1].parameters(), model, rate)


def test_a_skipped_update_holds_the_schedule_and_not_the_stage() -> None:
    stages = (RateStage(until=10, scale=1.0),)
    rate = LearningRatePlan(base=0.1, scale=4.0, shape="linear", warmup_updates=0, updates=20, final=0.0, stages=stages)
    assert rate.at(10, skipped=3) == pytest.approx(0.1 * 4.0 * (1 - 7 / 20))


def test_the_model_is_the_same_in_every_rank() -> None:
    class Random(Task):
        def model(self) -> torch.nn.Module:
            return torch.nn.Linear(3, 3)

        def train_data(self) -> list[int]:
            return [1, 2, 3]

    first, second = build_materials(Random, seed=5), build_materials(Random, seed=5)
    assert torch.equal(*(next(found.model.parameters()) for found in (first, second)))
    assert first.parameters == 12
