"""What the editions hold in memory: graphs, seen as the tensors that autograd saves for a backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn

from launcher.plan.windows import Window
from launcher.recipe.schema import Backward, MultitaskSection
from launcher.train.accumulation import Accumulation, LoadedWindow, MicroBatchData
from launcher.train.engines.single import SingleEngine
from launcher.train.task import Loss, Task
from launcher.train.task_losses import TaskLosses

STEPS = 2  # micro-steps of the window
SAMPLES = 4  # of a micro-batch


class Heads(Task):
    """Heads on one trunk."""

    def trunk(self, model: Any, batch: Tensor) -> Tensor:
        features: Tensor = model["trunk"](batch)
        return features

    def heads(self, model: Any, features: Tensor, batch: Tensor) -> Iterator[Loss]:
        for name, head in model["heads"].items():
            yield Loss(head(features).square().mean(), name=name)


class OwnForwards(Heads):
    """The same losses, each from a forward pass of its own."""

    def loss(self, model: Any, batch: Tensor) -> Iterator[Loss]:
        for name, head in model["heads"].items():
            yield Loss(head(self.trunk(model, batch)).square().mean(), name=name)


class Saved:
    """What autograd keeps for a backward in the place of a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # with its graph it would keep the graph, which keeps it


class Alive:
    """Counts the saved tensors that are alive at once."""

    def __init__(self) -> None:
        self._saved: WeakSet[Saved] = WeakSet()
        self.most = 0

    def save(self, tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        self._saved.add(saved)
        self.most = max(self.most, len(self._saved))
        return saved


def most_alive(task: Task, backward: Backward, losses: int, without_items: frozenset[str] = frozenset()) -> int:
    """The most tensors that are saved at once in a window of so many losses."""
    names = [f"loss{number}" for number in range(losses)]
    model = nn.ModuleDict(
        {"trunk": layers(), "heads": nn.ModuleDict({name: layers() for name in names})},
    )
    section = MultitaskSection(losses=dict.fromkeys(names, 1.0), backward=backward)
    accumulation = Accumulation(
        SingleEngine(model, torch.device("cpu")),
        TaskLosses(task, section),
        section.losses,
        backward,
        nullcontext(),
        lambda loss: loss,
    )
    items = {name: 0 if name in without_items else SAMPLES for name in names}
    micro_batches = tuple(MicroBatchData(torch.randn(SAMPLES, 3), items) for _ in range(STEPS))
    totals = tuple(STEPS * number for number in items.values())
    alive = Alive()
    with torch.autograd.graph.saved_tensors_hooks(alive.save, lambda saved: saved.tensor):
        accumulation.accumulate(
            LoadedWindow(Window(0, 0, 0, STEPS * SAMPLES, SAMPLES, 1, STEPS * SAMPLES), micro_batches, totals)
        )
    return alive.most


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh())


@pytest.mark.parametrize(
    ("task", "backward"), [(OwnForwards(), "sequential"), (Heads(), "sequential"), (Heads(), "shared")]
)
def test_one_loss_is_alive_at_a_time(task: Task, backward: Backward) -> None:
    assert most_alive(task, backward, 6) == most_alive(task, backward, 1)


@pytest.mark.parametrize("task", [Heads(), OwnForwards()])
def test_joint_holds_every_graph(task: Task) -> None:
    one, two, six = (most_alive(task, "joint", losses) for losses in (1, 2, 6))
    assert six - one == 5 * (two - one) > 0


@pytest.mark.parametrize(
    ("task", "backward"), [(OwnForwards(), "sequential"), (Heads(), "sequential"), (Heads(), "shared")]
)
def test_a_loss_without_items_leaves_no_graph_behind(task: Task, backward: Backward) -> None:
    none = frozenset({"loss0", "loss1"})
    assert most_alive(task, backward, 3, none) == most_alive(task, backward, 1)


@dataclass
class Features:
    """What hides a tensor from whoever looks for tensors in tuples, lists and dicts."""

    hidden: Tensor


class Hidden(Heads):
    """A trunk whose output cannot be detached."""

    def trunk(self, model: Any, batch: Tensor) -> Any:
        return Features(super().trunk(model, batch))

    def heads(self, model: Any, features: Any, batch: Tensor) -> Iterator[Loss]:
        return super().heads(model, features.hidden, batch)


def test_a_trunk_that_hides_its_tensors_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^Task.trunk must return a tensor, or .* lists and dicts, not Features$"):
        most_alive(Hidden(), "shared", 2)
