"""train.accumulate_dtype: what many micro-steps add up in bf16 is rounded away; in fp32 it is not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore

from launcher.plan.windows import Window
from launcher.recipe.schema import Recipe
from launcher.train.engines.base import Engine
from launcher.train.engines.ddp import DdpEngine
from launcher.train.engines.deferred import DeferredEngine
from launcher.train.engines.gradients import gradients_of
from launcher.train.engines.single import SingleEngine
from launcher.train.job import build_engine

CPU = torch.device("cpu")
STEPS = 64
pytestmark = pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="PyTorch 2.10 and later have it")


def recipe(**train: object) -> Recipe:
    exact = train.get("determinism") == "exact"
    return Recipe.model_validate(
        {
            "task": {"entry": "package.module:Task"},
            "batch": {"global": STEPS, "micro": 1},
            "train": {"updates": 1, **train, **({"virtual_ranks": 1} if exact else {})},
        }
    )


@pytest.fixture
def two_ranks_of_one() -> Iterator[None]:
    """A process group, so that engines of several ranks can be made."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def summed(model: nn.Module, inputs: Tensor) -> Tensor:
    total: Tensor = model(inputs).sum()
    return total


def accumulated(engine: Engine) -> None:
    """A window of micro-steps that each add about as much, 2^-9 of it at the end: less than bf16 tells apart."""
    inputs = torch.linspace(0.5, 1.0, STEPS).bfloat16()
    window = Window(0, 0, 0, STEPS, 1, 1, STEPS, virtual_ranks=1)
    for step, value in enumerate(inputs):
        engine.begin(window, step)
        engine.micro_step(partial(summed, inputs=value.expand(1, 3)), boundary=step == STEPS - 1)
    engine.reduce()


def half_model() -> nn.Module:
    """Parameters in bf16, and one in fp32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 1, bias=False)).bfloat16()
    model.register_parameter("own", nn.Parameter(torch.ones(1)))
    return model


def weight(engine: Engine) -> nn.Parameter:
    return engine.model.get_parameter("0.weight")


EXPECTED = torch.linspace(0.5, 1.0, STEPS).bfloat16().double().sum()


def error(gradient: Tensor | None) -> float:
    assert gradient is not None
    return float((gradient.double() / EXPECTED - 1).abs().max())


@pytest.mark.parametrize("train", [{}, {"determinism": "exact"}], ids=["single", "exact"])
def test_one_rank_adds_up_in_fp32(train: dict[str, object]) -> None:
    engine = build_engine(recipe(accumulate_dtype="fp32", **train), half_model(), 1, CPU)
    accumulated(engine)
    assert error(weight(engine).grad) < 1e-6
    assert {gradient.dtype for gradient in gradients_of(engine.model)} == {torch.float32}


def test_without_it_what_is_added_late_is_rounded_away() -> None:
    engine = build_engine(recipe(), half_model(), 1, CPU)
    accumulated(engine)
    assert error(weight(engine).grad) > 1e-3


def test_several_ranks_reduce_in_fp32_after_the_backward(two_ranks_of_one: None) -> None:
    """DDP would reduce in the format of the parameters."""
    engine = build_engine(recipe(accumulate_dtype="fp32"), half_model(), 2, CPU)
    assert isinstance(engine, DeferredEngine)
    accumulated(engine)
    assert error(weight(engine).grad) < 1e-6
    reductions = engine.reduce()
    assert reductions.bytes == 4 * 4  # three parameters in bf16 and one in fp32, of which no micro-step made use


def test_a_model_in_fp32_keeps_ddp(two_ranks_of_one: None) -> None:
    engine = build_engine(recipe(accumulate_dtype="fp32"), nn.Linear(3, 1), 2, CPU)
    assert isinstance(engine, DdpEngine)


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_the_optimizer_sees_the_whole_sum_rounded_once(max_norm: float | None) -> None:
    engine = build_engine(recipe(accumulate_dtype="fp32"), half_model(), 1, CPU)
    optimizer = torch.optim.AdamW(engine.model.parameters(), lr=0.1)
    engine.hold(optimizer)
    before = weight(engine).detach().clone()
    seen: list[Tensor | None] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(weight(engine).grad))
    for _ in range(2):
        accumulated(engine)
        whole = weight(engine).grad
        assert whole is not None
        norm = float(whole.norm())
        applied, square = engine.step(optimizer, torch.amp.GradScaler("cpu", enabled=False), max_norm)
        assert applied and float(square) == pytest.approx(norm**2, rel=1e-6)
        rounded = seen.pop()
        assert rounded is not None and rounded.dtype == torch.bfloat16
        assert rounded.float().norm() == pytest.approx(1.0 if max_norm else norm, rel=1e-2)
        assert weight(engine).grad is None
    assert not torch.equal(before, weight(engine))


def test_a_model_in_another_type_is_taken_as_it_is_now() -> None:
    """`launcher prove` turns models to float64, and makes them another engine."""
    model = half_model()
    build_engine(recipe(accumulate_dtype="fp32"), model, 1, CPU)
    engine = build_engine(recipe(accumulate_dtype="fp32"), model.double(), 1, CPU)
    assert isinstance(engine, SingleEngine)
    model(torch.ones(1, 3).double()).sum().backward()
    assert weight(engine).grad is not None
    assert weight(engine).grad.dtype == torch.float64  # type: ignore[union-attr]  # it is there
