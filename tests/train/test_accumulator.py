"""The Accumulator in one process: what a loop may do, and what it is told when it does otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from launcher import Accumulator
from launcher.plan.planner import make_plan
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe

DATA = [torch.randn(size, 3, generator=torch.Generator().manual_seed(size)).double() for size in (4, 2, 5, 1, 3)]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2).double()


def make(micro_steps: int = 2, **options: Any) -> tuple[nn.Module, Accumulator]:
    model = make_model()
    return model, Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), micro_steps, **options)


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    square: Tensor = model(batch).square().mean()
    return square


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def train(model: nn.Module, accumulator: Accumulator, batches: Iterable[Any] = DATA) -> list[bool]:
    applied = []
    for window in accumulator.windows(batches):
        for batch in window:
            window.backward(loss_of(model, batch))
        applied.append(accumulator.step().applied)
    return applied


def test_the_docstring_shows_the_loop_and_its_replacement() -> None:
    shown = inspect.getdoc(Accumulator) or ""
    assert "optimizer.zero_grad()" in shown
    assert "for window in accumulator.windows(loader):" in shown


def test_every_window_is_one_batch() -> None:
    model, accumulator = make()
    whole = make_model()
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
    for first in (0, 2, 4):
        optimizer.zero_grad()
        loss_of(whole, torch.cat(DATA[first : first + 2])).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert train(model, accumulator) == [True] * 3
    assert torch.allclose(parameters(model), parameters(whole), rtol=1e-14)


def test_batches_of_any_kind_are_counted_by_their_first_tensor() -> None:
    model, accumulator = make()
    for window in accumulator.windows([{"name": "a", "x": batch} for batch in DATA]):
        assert window.totals["loss"] in (6, 3)
        for batch in window:
            window.backward(loss_of(model, batch["x"]))
        accumulator.step()


def test_gradients_of_before_do_not_leak_into_a_window() -> None:
    model, accumulator = make()
    other, clean = make()
    loss_of(model, DATA[0]).backward()  # type: ignore[no-untyped-call]
    train(model, accumulator)
    train(other, clean)
    assert torch.equal(parameters(model), parameters(other))


def test_a_compiled_model() -> None:
    model = make_model()
    compiled: Any = torch.compile(model, backend="eager")
    accumulator = Accumulator(compiled, torch.optim.SGD(model.parameters(), lr=0.1), 2)
    other, plain = make()
    train(compiled, accumulator)
    train(other, plain)
    assert torch.allclose(parameters(model), parameters(other))


def test_the_scale_is_found_out_by_a_window_and_not_by_its_micro_steps() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    model, accumulator = make(scaler=scaler)
    scales = []
    for window in accumulator.windows(DATA):
        for batch in window:
            scales.append(scaler.get_scale())
            window.backward(loss_of(model, batch))
        accumulator.step()
    assert scales == [8.0, 8.0, 16.0, 16.0, 32.0]


def test_a_loop_that_an_exception_ended_can_be_begun_again() -> None:
    model, accumulator = make()
    windows = accumulator.windows(DATA)  # held, as the traceback in a notebook does
    for batch in next(windows):
        assert len(batch) == 4
        break
    train(model, accumulator)
    with pytest.raises(RuntimeError, match="a window went by without"):
        next(windows)


def run_steps(body: Callable[[nn.Module, Accumulator, Any], None], **options: Any) -> None:
    model, accumulator = make(**options)
    for window in accumulator.windows(DATA):
        body(model, accumulator, window)


def step_early(model: nn.Module, accumulator: Accumulator, window: Any) -> None:
    for batch in window:
        window.backward(loss_of(model, batch))
        accumulator.step()


def break_out(model: nn.Module, accumulator: Accumulator, window: Any) -> None:
    for batch in window:
        window.backward(loss_of(model, batch))
        break
    accumulator.step()


def step_twice(model: nn.Module, accumulator: Accumulator, window: Any) -> None:
    whole_window(model, accumulator, window)
    accumulator.step()
    accumulator.step()


def whole_window(model: nn.Module, accumulator: Accumulator, window: Any) -> None:
    for batch in window:
        window.backward(loss_of(model, batch))


def without_backward(model: nn.Module, accumulator: Accumulator, window: Any) -> None:
    for batch in window:
        loss_of(model, batch).backward()  # type: ignore[no-untyped-call]


def backward_twice(model: nn.Module, accumulator: Accumulator, window: Any) -> None:
    for batch in window:
        window.backward(loss_of(model, batch))
        window.backward(loss_of(model, batch))


def backward_outside(model: nn.Module, accumulator: Accumulator, window: Any) -> None:
    window.backward(loss_of(model, DATA[0]))


def twice_through(model: nn.Module, accumulator: Accumulator, window: Any) -> None:
    whole_window(model, accumulator, window)
    whole_window(model, accumulator, window)


def a_vector(model: nn.Module, accumulator: Accumulator, window: Any) -> None:
    for batch in window:
        window.backward(model(batch).square())


def an_unknown_name(model: nn.Module, accumulator: Accumulator, window: Any) -> None:
    for batch in window:
        window.backward(loss_of(model, batch), name="c")


@pytest.mark.parametrize(
    ("body", "options", "says"),
    [
        (step_early, {}, "before the window's end"),
        (break_out, {}, "before the window's end"),
        (step_twice, {}, "after each window of accumulator.windows, once"),
        (whole_window, {}, "a window went by without accumulator.step"),
        (without_backward, {}, "a batch went by without window.backward of loss"),
        (backward_twice, {}, "twice for one batch: add the losses, or name them"),
        (backward_outside, {}, "belongs inside of `for batch in window`"),
        (twice_through, {}, "can be gone through once"),
        (a_vector, {}, r"must be a scalar, not a tensor of shape \[4, 2\]"),
        (an_unknown_name, {}, "no loss of the name 'c': the Accumulator has loss"),
        (an_unknown_name, {"losses": {"a": 1.0, "b": 1.0}}, "no loss of the name 'c': the Accumulator has a, b"),
        (whole_window, {"losses": {"a": 1.0, "b": 1.0}}, "which loss is it"),
    ],
)
def test_loops_that_would_train_something_else(body: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match=says):
        run_steps(body, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"micro_steps": 0}, "micro_steps is 0: an update takes one batch of each rank at least"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm is nan"),
    ],
)
def test_numbers_that_cannot_be(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(**options)


def test_a_schedule_that_follows_a_measurement() -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plateau: Any = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(TypeError, match="ReduceLROnPlateau follows a measurement"):
        Accumulator(model, optimizer, 2, plateau)


def test_several_processes_without_ddp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TypeError, match="Linear is a plain module, but there are 2 processes"):
        make()


@pytest.mark.parametrize(
    ("batch", "items", "says"),
    [
        ("text", None, "a batch of type str has no tensor"),
        (DATA[0], lambda batch: -1, "items must not be negative"),
        (DATA[0], lambda batch: {"tokens": 3}, "items counts tokens, but the losses are loss"),
    ],
)
def test_batches_that_cannot_be_counted(batch: Any, items: Any, says: str) -> None:
    _, accumulator = make()
    with pytest.raises((TypeError, ValueError), match=says):
        next(accumulator.windows([batch], items))


def launch(monkeypatch: pytest.MonkeyPatch, folder: Path, **sections: Any) -> None:
    """What a launch leaves for one rank."""
    base: dict[str, Any] = {"name": "own", "script": {"path": "train.py"}, "batch": {"global": 8, "micro": 2}}
    recipe = Recipe.model_validate({**base, "train": {"epochs": 2}, **sections})
    plan = make_plan(recipe, Topology(nodes=1, nproc_per_node=1, device="cpu"))
    (folder / "plan.json").write_text(plan.to_json())
    monkeypatch.setenv("LAUNCHER_RUN_DIR", str(folder))


def test_numbers_come_from_the_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launch(monkeypatch, tmp_path, optimizer={"lr": 0.5}, lr_scaling={"rule": "linear", "reference_batch": 4})
    model = make_model()
    parts: list[Any] = [{"params": [model.weight], "lr": 0.2}, {"params": [model.bias]}]
    optimizer = torch.optim.SGD(parts, lr=0.1)
    accumulator = Accumulator.from_env(model, optimizer, samples=20, losses={"a": 1.0, "b": 2.0})
    assert accumulator.plan is not None
    assert accumulator.plan.length.updates == 6
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2.0, 1.0])
    data = torch.randn(20, 3).double()
    loader = torch.utils.data.DataLoader(data, batch_sampler=accumulator.sampler())  # type: ignore[arg-type,var-annotated]
    sizes: list[list[int]] = []
    for window in accumulator.windows(loader):
        sizes.append([])
        for batch in window:
            window.backward(loss_of(model, batch), name="a")
            window.backward(loss_of(model, batch), name="b")
            sizes[-1].append(len(batch))
        accumulator.step()
    assert sizes == [[2] * 4, [2] * 4, [2] * 2] * 2


def test_a_scheduler_of_ones_own_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launch(monkeypatch, tmp_path, optimizer={"lr": 0.5})
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    accumulator = Accumulator.from_env(model, optimizer, scheduler=scheduler)
    assert accumulator.scheduler is scheduler
    assert optimizer.param_groups[0]["lr"] == 0.1


def launched() -> tuple[nn.Module, Accumulator]:
    model = make_model()
    return model, Accumulator.from_env(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_outside_of_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAUNCHER_RUN_DIR", raising=False)
    with pytest.raises(RuntimeError, match="LAUNCHER_RUN_DIR is not set: start this script with `launcher run RECIPE`"):
        launched()
    _, accumulator = make()
    with pytest.raises(RuntimeError, match="make the Accumulator with"):
        accumulator.sampler()


def test_plans_that_a_loop_cannot_follow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launch(monkeypatch, tmp_path, batch={"global": 7, "micro": 2})
    model, accumulator = launched()
    with pytest.raises(ValueError, match="let your DataLoader take its batches from"):
        train(model, accumulator)
    with pytest.raises(RuntimeError, match=r"from_env\(..., samples=len\(dataset\)\)"):
        accumulator.sampler()


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        (DATA[:1], "the loader ended 3 micro-batches before a window of the plan did"),
        (DATA, "a window of the plan has 8 samples, but the loaders gave 12"),
    ],
)
def test_loaders_that_are_not_the_plans(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, batches: list[Tensor], says: str
) -> None:
    launch(monkeypatch, tmp_path, data={"samples": 20})
    model, accumulator = launched()
    accumulator.sampler()
    with pytest.raises(RuntimeError, match=says):
        train(model, accumulator, batches)


def test_a_plan_for_other_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launch(monkeypatch, tmp_path)
    plan = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(plan.replace('"nproc_per_node": 1', '"nproc_per_node": 2'))
    with pytest.raises(RuntimeError, match="the plan is for 2 ranks, but the model is shared by 1"):
        launched()
