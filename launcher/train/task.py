"""What the user writes: a model, its data, its loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset, default_collate

Measured: TypeAlias = Tensor | tuple[Tensor, Tensor]  # values of samples, or those with a weight each


class SampleSource(Protocol):
    """Training or evaluation data: samples by index. A torch `Dataset` with a length is one.

    With `__getitems__(indices)`, the samples of a micro-batch are asked for together.

    What a sample draws at random from Python's, numpy's or torch's own generator as it is loaded follows from the
    recipe's seed, the epoch and the index alone. Where it draws, samples are asked for one by one.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Loss:
    """One loss of one micro-batch.

    Attributes:
        value: scalar tensor, with its graph.
        reduction: whether the value is the mean over the micro-batch's items, or their sum.
        name: what it is called where a task has several; the recipe's `multitask.losses` has its weight.
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

    def largest_samples(self, count: int) -> Sequence[int] | None:
        """The samples of the training data that take the most memory, for `batch.micro: auto` to try with.

        Args:
            count: how many are wanted.

        Returns:
            Their indices, the largest first. None, the default: the largest among some that are loaded, by their bytes.
        """
        return None

    def items(self, batch: Any) -> int | Mapping[str, int] | None:
        """How many items the loss of one micro-batch is over: tokens that are not ignored, labelled pixels.

        Called before the window's first forward pass. The mean over 900 tokens then weighs nine times the mean over
        100, on whatever ranks they are.

        Args:
            batch: what `collate` made, on the CPU.

        Returns:
            The items; for several losses name → items, of which one that is left out counts samples. None, the
            default: samples.
        """
        return None

    def loss(self, model: nn.Module, batch: Any) -> Tensor | Loss | Iterable[Loss]:
        """The loss of one micro-batch, or its losses.

        Args:
            model: the model.
            batch: what `collate` made, its tensors on the model's device.

        Returns:
            A scalar tensor, the mean over the micro-batch's items, as `nn.CrossEntropyLoss()` gives it; or a `Loss`
            that says it is a sum; or several of them by name, best yielded one by one. Never divide by the number of
            micro-steps: the update divides once.
        """
        raise NotImplementedError(f"{type(self).__name__}.loss is not written: return a scalar tensor")

    def trunk(self, model: nn.Module, batch: Any) -> Any:
        """What several losses share, where they do: write this and `heads` instead of `loss`.

        Args:
            model: the model.
            batch: what `collate` made, its tensors on the model's device.

        Returns:
            A tensor, or tensors in tuples, lists and dicts.
        """
        raise NotImplementedError(f"{type(self).__name__}.trunk is not written: return what the heads share")

    def heads(self, model: nn.Module, features: Any, batch: Any) -> Iterable[Loss]:
        """The losses of a micro-batch on what `trunk` returned, best yielded one by one.

        Args:
            model: the model.
            features: what `trunk` returned.
            batch: what `collate` made, its tensors on the model's device.
        """
        raise NotImplementedError(f"{type(self).__name__}.heads is not written: yield the losses, by name")

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


def tensors_of(task: Task, data: SampleSource) -> tuple[Tensor, ...] | None:
    """Data that is tensors already, from which a batch is indexed at once instead of stacked sample by sample.

    Only where that is all that happens to a sample: not in a subclass, which may augment it.
    """
    if type(data) is TensorDataset and type(task).collate is Task.collate:
        return data.tensors
    return None


class SampleError(Exception):
    """Samples that cannot be had: the message says which, and why."""


def rows_of(tensors: Sequence[Tensor], indices: Sequence[int]) -> list[Tensor]:
    """The rows of tensors at `indices`, as `collate` would stack them."""
    rows = torch.tensor(indices)
    return [tensor[rows] for tensor in tensors]
