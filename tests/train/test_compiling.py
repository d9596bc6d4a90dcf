"""train.compile: one compilation for all micro-batches of a shape, one more for those of others, and then no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch._dynamo.testing import CompileCounter
from torch.nn import functional
from torch.utils.data import TensorDataset

from launcher.plan.planner import make_plan, with_facts
from launcher.plan.topology import Topology
from launcher.recipe.parallel_section import ParallelSection
from launcher.recipe.schema import Recipe
from launcher.train.compiling import compile_model
from launcher.train.engines.ddp import DdpEngine
from launcher.train.job import build_job, build_materials
from launcher.train.loop import train
from launcher.train.snapshot import Tensors
from launcher.train.task import Loss, Task

CPU = torch.device("cpu")
HEADS = ("a", "b", "c", "d", "e")


@pytest.fixture(autouse=True)
def counter() -> Iterator[CompileCounter]:
    """Compiles by counting, so that no test waits for a compiler."""
    torch._dynamo.reset()
    yield CompileCounter()
    torch._dynamo.reset()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.heads = nn.ModuleDict({name: nn.Linear(8, 1) for name in HEADS})

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.trunk(inputs)
        return torch.stack([head(features) for head in self.heads.values()]).sum(dim=0)


class Samples(Task):
    """23 samples, so that an epoch of windows of 8 has a tail of 7."""

    def __init__(self) -> None:
        inputs = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))
        self.data = TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))

    def model(self) -> nn.Module:
        return Net()

    def train_data(self) -> TensorDataset:
        return self.data


class Whole(Samples):
    """Calls the model."""

    def eval_data(self) -> TensorDataset:
        return self.data

    def loss(self, model: nn.Module, batch: Any) -> Any:
        inputs, targets = batch
        return functional.mse_loss(model(inputs), targets)

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": (model(batch[0]) - batch[1]).square().mean(dim=1)}


class Parts(Samples):
    """Calls the trunk and the heads."""

    def trunk(self, model: nn.Module, batch: Any) -> Any:
        assert isinstance(model, Net)
        return model.trunk(batch[0])

    def heads(self, model: nn.Module, features: Any, batch: Any) -> Iterable[Loss]:
        assert isinstance(model, Net)
        for name, head in model.heads.items():
            yield Loss(functional.mse_loss(head(features), batch[1]), name=name)


def summed(model: nn.Module, inputs: Tensor) -> Tensor:
    total: Tensor = model(inputs).sum()
    return total


def trained(task: type[Task], compiles: bool, **sections: Any) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of a training on one rank, and the model in the end."""
    recipe = Recipe.model_validate(
        {
            "task": {"entry": "package.module:Task"},
            "batch": {"global": 8, "micro": 2},
            "train": {"epochs": 3, "compile": compiles},
            "optimizer": {"name": "adamw", "lr": 0.01},
            **sections,
        }
    )
    materials = build_materials(task, seed=0)
    plan = with_facts(
        make_plan(recipe, Topology(nodes=1, nproc_per_node=1, device="cpu")),
        samples=23,
        parameters=materials.parameters,
    )
    job = build_job(plan, materials, 0, CPU, lambda: False)
    losses: list[float] = []
    train(job, lambda result: losses.append(result.row()["train/loss"]), lambda update: None)
    state = job.engine.model_state()
    assert isinstance(state, Tensors)
    return losses, dict(state.tensors)


def test_a_training_compiles_for_micro_batches_the_tail_and_evaluation(
    counter: CompileCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Micro-batches of 2, in each epoch the last of 1, and evaluations; three epochs compile no more than one."""
    monkeypatch.setattr("launcher.train.job.compile_model", partial(compile_model, backend=counter))
    losses, state = trained(Whole, compiles=True)
    assert 2 <= counter.frame_count <= 4  # with and without gradients, each of one size and of others
    plain_losses, plain_state = trained(Whole, compiles=False)
    assert list(state) == list(plain_state)
    assert losses == pytest.approx(plain_losses, rel=1e-5)
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, plain_state[name])


def test_the_parts_that_a_task_calls_are_compiled(counter: CompileCounter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trunk and five heads, for which PyTorch would have given up if they were one to it."""
    monkeypatch.setattr("launcher.train.job.compile_model", partial(compile_model, backend=counter))
    multitask = {"losses": dict.fromkeys(HEADS, 1.0), "backward": "shared"}
    losses, _ = trained(Parts, compiles=True, multitask=multitask)
    assert 6 <= counter.frame_count <= 12  # of 2 samples, and of others
    assert losses == pytest.approx(trained(Parts, compiles=False, multitask=multitask)[0], rel=1e-5)


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(("width", "graphs"), [(8, 1), (400_000, 2)], ids=["one bucket", "two buckets"])
def test_under_ddp_the_boundary_compiles_nothing_anew(
    counter: CompileCounter, group_of_one: None, width: int, graphs: int
) -> None:
    """Nor is there another graph for it: all micro-steps have the one that is cut at the buckets."""
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
    engine = DdpEngine(model, CPU, ParallelSection(bucket_mb=1))
    compile_model(engine.model, counter)
    compilations: list[int] = []
    for tail in (5, 5, 3, 5, 4):
        for step, samples in enumerate((5, 5, tail)):
            engine.micro_step(partial(summed, inputs=torch.randn(samples, 4)), boundary=step == 2)
            if not compilations:
                assert counter.frame_count == graphs
        compilations.append(counter.frame_count)
        engine.reduce()
        engine.model.zero_grad()
    assert compilations == [graphs, graphs, 2 * graphs, 2 * graphs, 2 * graphs]
