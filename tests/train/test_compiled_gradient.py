"""train.compile: the compiled model's gradient is held against that of the model as it is written."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from launcher.errors import RequestError
from launcher.plan.planner import make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.train.compiled_gradient import COARSE, FINE, difference_of, hold_to_written
from launcher.train.compiling import compile_model
from launcher.train.job import Job, build_job, build_materials
from launcher.train.loop import train
from launcher.train.task import Task
from tests.train.compilers import (
    SAMPLES,
    Backend,
    Denoising,
    Dropping,
    Drops,
    Large,
    Noisy,
    OutOfMemory,
    Right,
    Rounds,
    Sensitive,
    Squares,
    Wrong,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def job_of(task: type[Task], backend: Backend, monkeypatch: pytest.MonkeyPatch, **train_keys: Any) -> Job:
    monkeypatch.setattr("launcher.train.job.compile_model", partial(compile_model, backend=backend))
    recipe = Recipe.model_validate(
        {
            "task": {"entry": "package.module:Task"},
            "batch": {"global": 8, "micro": 4},
            "train": {"updates": 3, "compile": True, **train_keys},
            "optimizer": {"name": "sgd", "lr": 0.01},
        }
    )
    materials = build_materials(task, seed=0)
    topology = Topology(nodes=1, nproc_per_node=1, device="cpu")
    plan = with_facts(make_plan(recipe, topology), samples=SAMPLES, parameters=materials.parameters)
    return build_job(plan, materials, 0, CPU, lambda: False)


def trained(job: Job) -> list[str]:
    """What is said in a training."""
    said: list[str] = []
    train(job, lambda result: None, lambda update: None, say=said.append)
    return said


@pytest.mark.parametrize("task", [Squares, Dropping, Denoising])
@pytest.mark.parametrize(("shape", "name"), [((8, 4), "first.weight"), ((1,), "last.bias")])
def test_a_parameter_without_its_gradient_is_named(
    task: type[Task], shape: tuple[int, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(task, Wrong(*shape), monkeypatch)
    with pytest.raises(RequestError) as caught:
        trained(job)
    assert str(caught.value) == (
        f"train.compile: PyTorch {torch.__version__} compiles this model wrongly: the gradient of {name} differs by "
        "100% from that of the model as it is written. Set train.compile=false."
    )


@pytest.mark.parametrize("task", [Squares, Dropping, Denoising])
def test_a_right_one_trains_and_nothing_is_said(task: type[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout is compared in evaluation mode, whatever the compiler draws in training."""
    backend = Drops() if task is Dropping else Right()
    assert trained(job_of(task, backend, monkeypatch)) == []
    assert backend.compiled == (2 if task is Dropping else 1)
    assert backend.runs == 6 + 1


@pytest.mark.parametrize(
    ("task", "backend", "why"),
    [
        (Noisy, Drops(), "the model draws random numbers in evaluation mode too"),
        (Large, Right(), "memory does not hold a micro-batch of the model as it is written"),
    ],
)
def test_what_cannot_be_compared_is_told(
    task: type[Task], backend: Right, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (said,) = trained(job_of(task, backend, monkeypatch))
    assert said == (
        f"train.compile: the gradient of what was compiled is not compared with that of the model itself: {why}"
    )
    assert backend.runs == 6


def test_memory_that_the_compiled_model_lacks_is_left_to_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained(job_of(Squares, OutOfMemory(), monkeypatch)) == []


@pytest.mark.parametrize(
    ("task", "backend"),
    [(Squares, Drops()), (Dropping, Drops()), (Denoising, Drops()), (Noisy, Drops()), (Sensitive, Rounds())],
)
def test_nothing_is_changed(task: type[Task], backend: Right, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters, buffers, modes, gradients and random numbers are bit for bit as they were."""
    job = job_of(task, backend, monkeypatch)
    model, loaded = job.engine.model, next(iter(job.windows))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    numbers = random.getstate(), torch.get_rng_state(), np.random.get_state(legacy=True)[1].copy()  # type: ignore[index]
    hold_to_written(job, loaded, lambda said: None)
    assert random.getstate() == numbers[0]
    assert torch.equal(torch.get_rng_state(), numbers[1])
    assert np.array_equal(np.random.get_state(legacy=True)[1], numbers[2])  # type: ignore[index]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_a_rank_without_a_micro_batch_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(Squares, Wrong(8, 4), monkeypatch)
    loaded = replace(next(iter(job.windows)), micro_batches=())
    hold_to_written(job, loaded, lambda said: None)


def test_rounding_that_the_model_makes_much_of_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled model is wrong in its last digits, which moves its gradient far."""
    calls = Sensitive.calls = list[str]()
    assert trained(job_of(Sensitive, Rounds(), monkeypatch)) == []
    assert calls[:3] == ["as written", "compiled", "as written"]
    with pytest.raises(RequestError, match=r"the gradient of first.weight differs by 100%"):
        trained(job_of(Sensitive, Wrong(8, 4), monkeypatch))


def test_what_rounding_may_do_is_no_difference() -> None:
    written = {"zero": torch.tensor([1e-9]), "small": torch.tensor([1e-3, 1e-3]), "large": torch.ones(100)}
    rounded = {"zero": torch.tensor([-3e-9]), "small": torch.tensor([1.001e-3, 1e-3]), "large": 0.999 * torch.ones(100)}
    assert difference_of(written, rounded, FINE) == ""
    less = {**rounded, "large": 0.85 * torch.ones(100)}
    differs = "the gradient of large differs by 15% from that of the model as it is written"
    assert difference_of(written, less, FINE) == differs
    assert difference_of(written, less, COARSE) == ""
    assert difference_of(written, less, FINE, {**written, "large": 1.06 * torch.ones(100)}) == ""
    assert difference_of(written, less, FINE, {**written, "large": torch.nan * torch.ones(100)}) == ""
    assert difference_of(written, less, FINE, {**written, "small": torch.ones(2)}) == differs
    most = {"zero": torch.ones(1), "small": torch.ones(2), "large": torch.ones(100)}
    assert difference_of(written, less, FINE, most) == ""


def test_nothing_at_all_is_never_rounding() -> None:
    """A small parameter, whose gradient coarse rounding may double, and a disturbance may move far."""
    written = {"large": torch.ones(100), "small": torch.full((1,), 5e-3), "none": torch.zeros(1)}
    compiled = {**written, "small": torch.zeros(1)}
    differs = "the gradient of small differs by 100% from that of the model as it is written"
    assert difference_of(written, {**written, "small": torch.full((1,), 1.5e-2)}, COARSE) == ""
    assert difference_of(written, compiled, COARSE) == differs
    assert difference_of(written, compiled, COARSE, {**written, "small": torch.ones(1)}) == differs


def test_differences_are_counted_and_what_is_not_finite_is_one() -> None:
    written = {"a": torch.ones(2), "b": torch.ones(2), "c": torch.zeros(2), "d": torch.tensor([torch.inf])}
    compiled = {"a": torch.ones(2), "b": torch.tensor([1.0, torch.nan]), "c": torch.ones(2), "d": torch.ones(1)}
    differs = "the gradient of b differs from that of the model as it is written"
    assert difference_of(written, compiled, FINE) == f"{differs}, as does that of 1 other"
    assert difference_of(written, {**compiled, "a": torch.zeros(2)}, FINE) == (
        "the gradient of a differs by 100% from that of the model as it is written, as do those of 2 others"
    )
