"""The state of a model that FSDP has shared out: each rank keeps its rows, and takes them again."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from launcher.train.chunks import Kept, Part, Parts
from launcher.train.engines.parts import own_part
from launcher.train.snapshot import (
    SAME,
    Tensors,
    first_names,
    kept_as,
    load_optimizer_state,
    optimizer_values,
    refuse_other_model,
    under_all_names,
)


class ShardedState:
    """The state of one rank's model and optimizer under FSDP.

    Args:
        model: the user's model.
        rank: this rank.
        shards: in how many parts the parameters are.
        shard: which of them is this rank's; where there are several copies of the model, the first of them is kept.
    """

    def __init__(self, model: nn.Module, rank: int, shards: int, shard: int) -> None:
        self._model = model
        self._rank = rank
        self._shards = shards
        self._shard = shard

    def model(self) -> Parts:
        """What this rank is to keep of the parameters and buffers."""
        same, tensors = first_names(self._model.state_dict(keep_vars=True))
        return Parts({name: self._to_keep(values) for name, values in tensors.items()}, {SAME: same})

    def load_model(self, kept: Kept) -> None:
        """Take this rank's part of the parameters, and the buffers.

        Raises:
            OtherModelError: they are those of another model.
        """
        own = self._model.state_dict(keep_vars=True)
        refuse_other_model(under_all_names(kept.like, kept.numbers), own)
        _, tensors = first_names(own)
        kept.fill((kept_as(name, kept.numbers), self._part(values)) for name, values in tensors.items())

    def optimizer(self, optimizer: torch.optim.Optimizer) -> Parts:
        """What this rank is to keep of what the optimizer remembers."""
        remembered = optimizer_values(optimizer)
        return Parts({name: self._to_keep(values) for name, values in remembered.tensors.items()}, remembered.numbers)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, kept: Kept) -> None:
        """Take this rank's part of what the optimizer remembered."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        tensors = {name: _memory(like, parameters[int(name.partition(".")[0])]) for name, like in kept.like.items()}
        kept.fill((name, self._part(values)) for name, values in tensors.items())
        load_optimizer_state(optimizer, Tensors(tensors, kept.numbers))

    def _to_keep(self, values: Tensor) -> Part:
        """What this rank is to keep of a tensor; every rank must ask about every one."""
        if isinstance(values, DTensor) and values.numel() and _in_rows(values):
            return self._part(values) if self._rank < self._shards else Part(values.shape)
        # One that an optimizer has shared out in another way is put together.
        whole = values.full_tensor() if isinstance(values, DTensor) else values
        return Part.whole(whole.detach()) if self._rank == 0 else Part(values.shape)

    def _part(self, values: Tensor) -> Part:
        """What this rank has of a tensor."""
        if not isinstance(values, DTensor):
            return Part.whole(values.detach())
        own = own_part(values)
        rows = -(-values.shape[0] // self._shards)
        first = min(self._shard * rows, values.shape[0])
        if len(own) != min(rows, values.shape[0] - first):
            raise RuntimeError(
                f"rank {self._rank} has {len(own)} rows of {tuple(values.shape)}, not those that it should"
            )
        return Part.rows(values.shape, first, own)


def _in_rows(values: DTensor) -> bool:
    """Whether it is shared out as parameters are: in rows among the ranks that have a copy of the model."""
    *copies, last = values.placements
    return last == Shard(0) and all(placement == Replicate() for placement in copies)


def _memory(like: Tensor, parameter: Tensor) -> Tensor:
    """Room for a tensor that belongs to a parameter: for the part of this rank, if it has the parameter's shape."""
    if like.shape == parameter.shape:
        return torch.zeros_like(parameter, dtype=like.dtype, requires_grad=False)
    return torch.zeros(like.shape, dtype=like.dtype)
