"""The micro-batch that fits: what is tried, and that nothing of it is left."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from launcher import Task
from launcher.plan.fitting import FoundMicro
from launcher.plan.planner import make_plan, with_facts, with_found
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.train.compiling import compile_model
from launcher.train.job import Job, build_job, build_materials
from launcher.train.loop import train
from launcher.train.micro_search import find_micro
from launcher.train.out_of_memory import NoMemoryError
from tests.tasks.hungry import SAMPLES, Hungry, Noisy, Ragged


def job_of(task: Task, batch: dict[str, Any], **sections: Any) -> Job:
    recipe = Recipe.model_validate(
        {"name": "it", "batch": batch, "train": {"updates": 5, "max_grad_norm": 1.0}, **sections}
    )
    materials = build_materials(lambda: task, seed=1)
    plan = make_plan(recipe, Topology(nodes=1, nproc_per_node=1, device="cpu"))
    plan = with_facts(plan, samples=SAMPLES, parameters=materials.parameters)
    return build_job(plan, materials, 0, torch.device("cpu"), lambda: False)


def state_of(job: Job) -> dict[str, Any]:
    """All that is trained, and where random numbers are, as bits."""
    model = {name: value.clone().view(torch.uint8) for name, value in with_dimension(job).items()}
    groups = [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer_of(job).param_groups
    ]
    return {
        "model": {name: value.tolist() for name, value in model.items()},
        "optimizer": optimizer_of(job).state_dict()["state"],
        "settings": groups,
        "stepper": job.stepper.state(),
        "python": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state(legacy=True)],
        "torch": torch.get_rng_state().tolist(),
        "gradients": [parameter.grad for parameter in job.engine.model.parameters()],
        "training": job.engine.model.training,
    }


def with_dimension(job: Job) -> dict[str, torch.Tensor]:
    return {name: value.detach().reshape(-1) for name, value in job.engine.model.state_dict().items()}


def optimizer_of(job: Job) -> torch.optim.Optimizer:
    return job.stepper.optimizer


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [
        ({"name": "adamw", "weight_decay": 0.1}, "fp32"),
        pytest.param({"name": "sgd", "momentum": 0.9}, "bf16", marks=pytest.mark.long),
        ({"name": "adamw"}, "fp16"),
    ],
)
def test_after_the_search_everything_is_as_it_was(optimizer: dict[str, Any], precision: str) -> None:
    task = Noisy(dropout=0.2)
    job = job_of(
        task, {"global": 48, "micro": "auto"}, optimizer=optimizer, train={"updates": 5, "precision": precision}
    )
    before = state_of(job)
    found = find_micro(job, task.train_data(), 0, print)
    assert found == FoundMicro(since=0, micro=12, fits=12, too_large=16)
    assert task.calls > 5
    assert state_of(job) == before


@pytest.mark.long
def test_half_precision_with_gradients_in_fp32() -> None:
    class Half(Hungry):
        def model(self) -> Any:
            return super().model().bfloat16()

        def loss(self, model: Any, batch: Any) -> Any:
            return super().loss(model, [each.bfloat16() for each in batch])

    task = Half()
    job = job_of(task, {"global": 48, "micro": "auto"}, train={"updates": 5, "accumulate_dtype": "fp32"})
    before = state_of(job)
    assert find_micro(job, task.train_data(), 0, print).micro == 12
    assert state_of(job) == before


@pytest.mark.long
def test_a_compiled_model_is_compiled_anew_for_the_size_that_is_taken() -> None:
    task, shapes = Hungry(), list[Any]()

    def compiler(graph: Any, inputs: list[Any]) -> Any:
        shapes.append([each.shape for each in inputs if isinstance(each, torch.Tensor) and each.dim() == 2])
        return graph

    job = job_of(task, {"global": 48, "micro": "auto"})
    compile_model(job.engine.model, compiler)
    job.go_on(with_found(job.plan, [find_micro(job, task.train_data(), 0, print)]), 0)
    tried = len(shapes)
    train(job, lambda result: None, lambda update: None)
    assert tried
    assert len(shapes) > tried


@pytest.mark.parametrize("backward", ["joint", pytest.param("sequential", marks=pytest.mark.long)])
def test_training_goes_on_as_with_the_number_that_was_found(backward: str) -> None:
    """Bit for bit, with dropout, data that draw and running statistics."""

    def trained(batch: dict[str, Any]) -> dict[str, Any]:
        task = Noisy(dropout=0.2)
        job = job_of(task, batch, multitask={"backward": backward})
        if batch["micro"] == "auto":
            plan = with_found(job.plan, [find_micro(job, task.train_data(), 0, print)])
            job.go_on(plan, 0)
            job = replace(job, plan=plan)
        train(job, lambda result: None, lambda update: None)
        return {key: value for key, value in state_of(job).items() if key != "optimizer"}

    assert trained({"global": 48, "micro": "auto"}) == trained({"global": 48, "micro": 12})


def test_the_largest_samples_are_tried() -> None:
    """A seventh of the samples has 7 numbers; those fit by fours, and the first ones of the data by sixes."""
    task = Ragged(most=28)
    job = job_of(task, {"global": 30, "micro": "auto"})
    assert find_micro(job, task.train_data(), 0, print).fits == 4


def test_a_task_may_know_its_largest_samples() -> None:
    class Knowing(Ragged):
        def largest_samples(self, count: int) -> list[int]:
            return [3, 10]  # of 4 numbers

    task = Knowing(most=28)
    assert find_micro(job_of(task, {"global": 30, "micro": "auto"}), task.train_data(), 0, print).micro >= 6


def test_a_task_that_names_samples_that_there_are_not() -> None:
    class Wrong(Hungry):
        def largest_samples(self, count: int) -> list[int]:
            return [SAMPLES]

    task = Wrong()
    with pytest.raises(ValueError, match=r"Wrong.largest_samples must return samples from 0 to 199"):
        find_micro(job_of(task, {"global": 30, "micro": "auto"}), task.train_data(), 0, print)


def test_where_not_one_sample_fits_it_says_so() -> None:
    task = Hungry(most=0)
    job = job_of(task, {"global": 30, "micro": "auto"})
    before = state_of(job)
    with pytest.raises(NoMemoryError, match="not even one sample fits"):
        find_micro(job, task.train_data(), 0, print)
    assert state_of(job) == before


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    class Broken(Hungry):
        def loss(self, model: Any, batch: Any) -> Any:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    task = Broken()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        find_micro(job_of(task, {"global": 30, "micro": "auto"}), task.train_data(), 0, print)


class Answerless(Hungry):
    """The largest samples have nothing that a loss would be of."""

    def items(self, batch: Any) -> int:
        return 0


def test_samples_without_items_are_tried_all_the_same() -> None:
    task = Answerless(most=4)
    assert find_micro(job_of(task, {"global": 48, "micro": "auto"}), task.train_data(), 0, print).fits == 4
    task = Answerless(most=0)
    with pytest.raises(NoMemoryError, match="not even one sample fits"):
        find_micro(job_of(task, {"global": 48, "micro": "auto"}), task.train_data(), 0, print)
