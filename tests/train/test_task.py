from __future__ import annotations

import pytest
import torch

from launcher import Loss, Task
from launcher.plan.learning_rate import LearningRatePlan
from launcher.recipe.schema import OptimizerSection
from launcher.train.accumulator import weight
from launcher.train.job import build_materials
from launcher.train.optimizer import build_optimizer, set_learning_rate
from launcher.train.task import losses_of


def test_what_a_task_leaves_out_is_named() -> None:
    with pytest.raises(NotImplementedError, match=r"Task.model is not written: return the nn.Module to train"):
        Task().model()


def test_a_loss_is_a_scalar() -> None:
    with pytest.raises(ValueError, match=r"not a tensor of shape \[3\]: take its mean over the samples"):
        list(losses_of(torch.ones(3)))
    with pytest.raises(TypeError, match="must return a scalar tensor or a Loss, not float"):
        list(losses_of(0.5))  # type: ignore[arg-type]


def test_weights_add_up_to_one_however_the_window_is_split() -> None:
    mean, total = Loss(torch.tensor(0.0)), Loss(torch.tensor(0.0), "sum")
    assert sum(weight(mean, items, 250) for items in (32, 32, 32, 32, 32, 32, 32, 26)) == pytest.approx(1.0)
    assert weight(total, 26, 250) == 1 / 250
    assert weight(mean, 0, 250) == weight(total, 0, 250) == 0.0  # a filler


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


def test_the_model_is_the_same_in_every_rank() -> None:
    class Random(Task):
        def model(self) -> torch.nn.Module:
            return torch.nn.Linear(3, 3)

        def train_data(self) -> list[int]:
            return [1, 2, 3]

    first, second = build_materials(Random, seed=5), build_materials(Random, seed=5)
    assert torch.equal(*(next(found.model.parameters()) for found in (first, second)))
    assert first.parameters == 12
