"""What the user writes: a model, its data, its loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset, default_collate

Measured: TypeAlias = Tensor | tuple[Tensor, Tensor]  # values of samples, or those with a weight each


class SampleSource(Protocol):
    """Training or evaluation data: samples by index. A torch `Dataset` with a length is one.

    With `__getitems__(indices)`, the samples of a micro-batch are asked for together.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Loss:
    """One loss of one micro-batch.

    Attributes:
        value: scalar tensor, with its graph.
        reduction: whether the value is the mean over the micro-batch's samples, or their sum.
        name: what it is called where a task has several.
    """

    value: Tensor
    reduction: Literal["mean", "sum"] = "mean"
    name: str = "loss"


class Task:
    """A training task. Subclass it, and name the subclass in the recipe's `task.entry`.

    The constructor takes the recipe's `task.args` as keyword arguments.
    """

    def model(self) -> nn.Module:
        """The model to train, on the CPU; called once in each rank, after the seed is set."""
        raise NotImplementedError(f"{type(self).__name__}.model is not written: return the nn.Module to train")

    def train_data(self) -> SampleSource:
        """The training data."""
        raise NotImplementedError(f"{type(self).__name__}.train_data is not written: return a data set with a length")

    def eval_data(self) -> SampleSource | None:
        """The evaluation data; None evaluates nothing."""
        return None

    def collate(self, samples: list[Any]) -> Any:
        """Make a micro-batch of its samples; the default stacks tensors, in tuples and dicts too."""
        return default_collate(samples)

    def loss(self, model: nn.Module, batch: Any) -> Tensor | Loss:
        """The loss of one micro-batch.

        Args:
            model: what to call for the forward pass: the model, as the engine wraps it.
            batch: what `collate` made, its tensors on the model's device.

        Returns:
            A scalar tensor, the mean over the micro-batch's samples, as `nn.CrossEntropyLoss()` gives it; or a `Loss`
            that says it is a sum. Never divide by the number of micro-steps: the update divides once.
        """
        raise NotImplementedError(f"{type(self).__name__}.loss is not written: return a scalar tensor")

    def evaluate(self, model: nn.Module, batch: Any) -> Mapping[str, Measured]:
        """Measurements on one batch of the evaluation data.

        Args:
            model: the model, in evaluation mode, without gradients.
            batch: what `collate` made, its tensors on the model's device.

        Returns:
            Name → numbers of each sample, shape [batch] or [batch, ...]; logged as `eval/<name>`, their mean over all
            samples. Not a mean: means of batches of different sizes do not add up to the mean.
            Where not every number counts alike, such as the tokens of padded samples, a pair (values, weights) of
            tensors of the same shape: logged is Σ value·weight / Σ weight over all samples. A mask is such a weight.
        """
        return {}

    def parameter_groups(self, model: nn.Module) -> Iterable[Any]:
        """What the optimizer gets: parameters, or groups of them as torch optimizers take them.

        A group's own `lr` is its peak; lr_scaling and the schedule multiply it as they do the recipe's.
        """
        return (parameter for parameter in model.parameters() if parameter.requires_grad)


def losses_of(result: Tensor | Loss) -> Iterator[Loss]:
    """What `Task.loss` returned, as losses: one for now, several by name when tasks may yield them.

    Raises:
        TypeError: it is neither a tensor nor a `Loss`.
        ValueError: it is not a scalar.
    """
    loss = Loss(result) if isinstance(result, Tensor) else result
    if not isinstance(loss, Loss):
        raise TypeError(f"Task.loss must return a scalar tensor or a Loss, not {type(result).__name__}")
    if loss.value.ndim:
        shape = list(loss.value.shape)
        raise ValueError(
            f"Task.loss must return a scalar, not a tensor of shape {shape}: take its mean over the samples"
        )
    yield loss


def tensors_of(task: Task, data: SampleSource) -> tuple[Tensor, ...] | None:
    """Data that is tensors already, from which a batch is indexed at once instead of stacked sample by sample.

    Only where that is all that happens to a sample: not in a subclass, which may augment it.
    """
    if type(data) is TensorDataset and type(task).collate is Task.collate:
        return data.tensors
    return None


def fetch(task: Task, data: SampleSource, indices: Sequence[int]) -> Any:
    """The samples at `indices` as one batch."""
    tensors = tensors_of(task, data)
    if tensors is not None:
        rows = torch.tensor(indices)
        return [tensor[rows] for tensor in tensors]
    together = getattr(data, "__getitems__", None)
    samples = together(list(indices)) if together else [data[index] for index in indices]
    return task.collate(samples)
