"""The state of a model in parts, as a whole: gathered one tensor at a time, and shared out again."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from launcher.train.snapshot import (
    Tensors,
    kept_once,
    load_optimizer_state,
    optimizer_state,
    refuse_other_model,
    under_all_names,
)


def whole_model_state(model: nn.Module, keep: bool) -> Tensors:
    """The whole parameters and buffers of a model; every rank must ask.

    Args:
        model: the model.
        keep: whether this rank keeps them; others need room for one at a time.
    """
    first: dict[int, str] = {}
    same: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in first:
            same[name] = first[id(value)]
        else:
            first[id(value)] = name
            tensors[name] = _whole(value, keep)
    return kept_once(tensors, same)


def load_whole_model_state(model: nn.Module, state: Tensors) -> None:
    """Give a model its parameters and buffers back, of which every rank has the whole.

    Raises:
        OtherModelError: it is another model.
    """
    tensors, own = under_all_names(state), model.state_dict(keep_vars=True)
    refuse_other_model(tensors, own)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(_part(tensors[name], value))


def whole_optimizer_state(optimizer: torch.optim.Optimizer, keep: bool) -> Tensors:
    """What an optimizer remembers of each whole parameter; every rank must ask.

    Args:
        optimizer: the optimizer.
        keep: whether this rank keeps it.
    """
    return optimizer_state(optimizer, lambda values: _whole(values, keep))


def load_whole_optimizer_state(optimizer: torch.optim.Optimizer, state: Tensors) -> None:
    """Give an optimizer its memory back, of which every rank has the whole."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = {}
    for name, value in state.tensors.items():
        parameter = parameters[int(name.partition(".")[0])]
        # A copy: what distribute_tensor gives may be a view that keeps the whole tensor in memory.
        parts[name] = _part(value, parameter).clone() if value.shape == parameter.shape else value
    load_optimizer_state(optimizer, Tensors(parts, state.numbers))


def _whole(values: Tensor, keep: bool) -> Tensor:
    """A whole tensor of which this rank may have a part; without values where it is not kept."""
    if not isinstance(values, DTensor):
        return values.detach()
    whole: Tensor = values.full_tensor().detach()
    return whole.cpu() if keep else whole.new_empty(0)


def _part(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank has whole: nothing is communicated."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
