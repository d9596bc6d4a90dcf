"""The losses of a task, checked against the names that the recipe has weights for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from launcher.errors import RequestError
from launcher.recipe.schema import MultitaskSection
from launcher.recipe.task_methods import LOSS_METHODS, shared_needs_heads
from launcher.train.items import items_by_name, listed
from launcher.train.task import Loss, Task

ONLY = "loss"  # the name of a loss that is alone


def loss_weights(section: MultitaskSection) -> dict[str, float]:
    """Name → weight of each loss, in the order of the recipe; one loss is called `loss`."""
    return dict(section.losses) or {ONLY: 1.0}


class TaskLosses:
    """Asks a task for its losses and its items.

    Args:
        task: the user's task.
        section: the recipe's `multitask` section.

    Raises:
        RequestError: the recipe asks for an edition that the task is not written for.
    """

    def __init__(self, task: Task, section: MultitaskSection) -> None:
        written = [method for method in LOSS_METHODS if getattr(type(task), method) is not getattr(Task, method)]
        if mistakes := list(shared_needs_heads(section, type(task).__name__, written)):
            raise RequestError(mistakes)
        self._task = task
        self._several = bool(section.losses)
        self.names = tuple(loss_weights(section))
        # With both written, `loss` is there for a forward pass of each loss's own.
        self._has_heads = "heads" in written
        self._has_loss = "loss" in written
        self.count_items = type(task).items is not Task.items

    def items(self, batch: Any, samples: int) -> dict[str, int]:
        """How many items each loss is over in a micro-batch, by name.

        Args:
            batch: what `collate` made, on the CPU.
            samples: how many samples that were.

        Raises:
            ValueError: items of a loss that there is not, or fewer than none.
        """
        found = self._task.items(batch) if self.count_items else None
        return items_by_name(found, self.names, lambda: samples, "Task.items")

    @property
    def have_own_graphs(self) -> bool:
        """Whether `one_by_one` gives each loss a graph of its own, rather than heads on one trunk."""
        return self._has_loss

    def all(self, model: nn.Module, batch: Any) -> Iterator[Loss]:
        """The losses of a micro-batch, from as few forward passes as the task can do with."""
        if self._has_heads:
            return self.of_heads(model, self.trunk(model, batch), batch)
        return self.one_by_one(model, batch)

    def one_by_one(self, model: nn.Module, batch: Any) -> Iterator[Loss]:
        """The losses of a micro-batch, each from a forward pass of its own where the task writes them so."""
        if self._has_heads and not self._has_loss:
            return self.all(model, batch)
        return self._checked(self._task.loss(model, batch), "Task.loss")

    def trunk(self, model: nn.Module, batch: Any) -> Any:
        """What the heads share."""
        return self._task.trunk(model, batch)

    def of_heads(self, model: nn.Module, features: Any, batch: Any) -> Iterator[Loss]:
        """The losses of the heads on what the trunk returned."""
        return self._checked(self._task.heads(model, features, batch), "Task.heads")

    def _checked(self, result: Tensor | Loss | Iterable[Loss], method: str) -> Iterator[Loss]:
        """Losses that are scalars and have the recipe's names, each once.

        Raises:
            TypeError: it is none of the three, or there are losses that the recipe does not name.
            ValueError: one is not a scalar, or comes twice.
        """
        several: Iterable[Tensor | Loss]
        if isinstance(result, Tensor | Loss):
            several = (result,)
        elif isinstance(result, Iterable):
            several = result
        else:
            raise TypeError(f"{method} must return a scalar tensor or a Loss, or yield Losses, not {_kind(result)}")
        missing = list(self.names)
        for found in several:
            loss = Loss(found) if isinstance(found, Tensor) else found
            if not isinstance(loss, Loss):
                raise TypeError(f"{method} must yield Losses, not {_kind(found)}")
            if loss.value.ndim:
                shape = list(loss.value.shape)
                raise ValueError(f"{method} must give a scalar, not a tensor of shape {shape}: take its mean")
            if not self._several:
                loss = Loss(loss.value, loss.reduction, ONLY)
            self._cross_off(loss.name, missing, method)
            yield loss
            del found, loss  # with them the graph of this loss, before the next one is computed
        if missing:
            raise ValueError(f"{method} gave no loss of the name {listed(missing)}, which multitask.losses has")

    def _cross_off(self, name: str, missing: list[str], method: str) -> None:
        if name in missing:
            missing.remove(name)
        elif not self._several:
            raise TypeError(
                f"{method} yields several losses: name each, Loss(value, name=...), and give their weights in the "
                "recipe, such as multitask: {losses: {class: 1.0, parity: 0.5}}"
            )
        elif name in self.names:
            raise ValueError(f"{method} yields the loss {name!r} twice for one micro-batch: add the two")
        else:
            raise TypeError(
                f"{method} yields a loss of the name {name!r}, but multitask.losses has {listed(self.names)}"
            )


def _kind(value: object) -> str:
    return type(value).__name__
