"""The state of a model and an optimizer that DeepSpeed has taken to pieces: each rank keeps its own.

Its own checkpoints are pickles. These are the files that every engine reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.train.chunks import Kept, Part, Parts
from launcher.train.engines.parts import own_part
from launcher.train.snapshot import (
    SAME,
    Numbers,
    Tensors,
    first_names,
    kept_as,
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
    refuse_other_model,
    under_all_names,
)


@dataclass(frozen=True)
class _Piece:
    """Where this rank's part of a parameter lies.

    Attributes:
        first: its first element within the parameter, which is taken as flat.
        start: its first element within the flat tensor of the parameter group.
        size: how many elements it has.
    """

    first: int
    start: int
    size: int


class ZeroState:
    """The state of one rank's model and optimizer under DeepSpeed.

    From stage 1 on, each parameter group is one flat tensor in full precision, of which a rank holds a part, and what
    the optimizer remembers of it is as flat. A parameter lies in it somewhere, perhaps over the ends of ranks. At stage
    3 the parameters that forward passes use are in parts as well, cut one by one.

    Args:
        model: the user's model.
        groups: the parameters of each of the optimizer's groups, before DeepSpeed put flat ones in their place.
        optimizer: the optimizer itself.
        zero: DeepSpeed's optimizer around it.
        stage: of ZeRO.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Sequence[nn.Parameter]],
        optimizer: torch.optim.Optimizer,
        zero: Any,
        stage: int,
    ) -> None:
        self._model = model
        self._parameters = [parameter for group in groups for parameter in group]
        filled = (group for group in groups if group)  # DeepSpeed takes empty ones out
        self._groups = {id(parameter): index for index, group in enumerate(filled) for parameter in group}
        self._optimizer = optimizer
        self._zero = zero
        self._stage = stage

    def model(self) -> Tensors | Parts:
        """What this rank is to keep of the parameters in full precision, and of the buffers."""
        if self._stage == 0:
            return model_state(self._model)
        same, tensors = first_names(self._model.state_dict(keep_vars=True))
        return Parts({name: self._to_keep(value) for name, value in tensors.items()}, {SAME: same})

    def load_model(self, kept: Kept) -> None:
        """Give this rank its part of the parameters, and the buffers; every rank must ask.

        Raises:
            OtherModelError: they are those of another model.
        """
        if self._stage == 0:
            load_model_state(self._model, kept.whole())
            return
        own = self._model.state_dict(keep_vars=True)
        shapes = {name: torch.empty(_shape(value), device="meta") for name, value in own.items()}
        refuse_other_model(under_all_names(kept.like, kept.numbers), shapes)
        _, tensors = first_names(own)
        named = [(kept_as(name, kept.numbers), value) for name, value in tensors.items()]
        kept.fill((name, self._stepped_on(value)) for name, value in named if value.requires_grad)
        if self._stage < 3:
            kept.fill((name, Part.whole(value.detach())) for name, value in named)
            return
        kept.fill((name, Part.whole(value)) for name, value in named if not isinstance(value, nn.Parameter))
        for name, value in named:
            if isinstance(value, nn.Parameter):
                self._share_out(value, kept, name)

    def optimizer(self) -> Tensors | Parts:
        """What this rank is to keep of what the optimizer remembers."""
        if self._stage == 0:
            return optimizer_state(self._optimizer)
        tensors: dict[str, Part] = {}
        numbers: Numbers = {}
        for index, parameter in enumerate(self._parameters):
            if not parameter.requires_grad:
                continue
            flat = self._flat(parameter)
            for key, value in sorted(self._optimizer.state[flat].items() if flat in self._optimizer.state else ()):
                if not isinstance(value, Tensor):
                    numbers[f"{index}.{key}"] = value
                elif value.shape == flat.shape:
                    tensors[f"{index}.{key}"] = self._part(parameter, value)
                else:
                    tensors[f"{index}.{key}"] = _of_first(value.detach())
        return Parts(tensors, numbers)

    def load_optimizer(self, kept: Kept) -> None:
        """Give this rank its part of what the optimizer remembers."""
        if self._stage == 0:
            load_optimizer_state(self._optimizer, kept.whole())
            return
        for name, value in kept.numbers.items():
            parameter, key = self._of(name)
            self._optimizer.state[self._flat(parameter)][key] = value
        kept.fill([(name, self._memory(name, like)) for name, like in kept.like.items()])

    def _of(self, name: str) -> tuple[nn.Parameter, str]:
        """The parameter that something is remembered of, and what."""
        index, _, key = name.partition(".")
        return self._parameters[int(index)], key

    def _memory(self, name: str, like: Tensor) -> Part:
        """Room for what is remembered of a parameter, in the optimizer's state."""
        parameter, key = self._of(name)
        flat = self._flat(parameter)
        remembered = self._optimizer.state[flat]
        if like.shape == _shape(parameter) and key != "step":
            if key not in remembered:
                remembered[key] = torch.zeros_like(flat)
            return self._part(parameter, remembered[key])
        on_device = any(group.get("fused") or group.get("capturable") for group in self._optimizer.param_groups)
        remembered[key] = torch.zeros(like.shape, dtype=like.dtype, device=flat.device if on_device else "cpu")
        return Part.whole(remembered[key])

    def _to_keep(self, value: Tensor) -> Part:
        """What this rank is to keep of a parameter or buffer."""
        if value.requires_grad:
            return self._stepped_on(value)
        partition: Tensor | None = getattr(value, "ds_tensor", None)
        if partition is None:
            return _of_first(value.detach())
        # A frozen parameter: no optimizer has it in full precision.
        return Part.stretch(_shape(value), partition.numel() * dist.get_rank(), own_part(value))

    def _stepped_on(self, parameter: Tensor) -> Part:
        """This rank's part of a parameter in full precision."""
        return self._part(parameter, self._flat(parameter))

    def _part(self, parameter: Tensor, flat: Tensor) -> Part:
        """This rank's part of a parameter, or of what is remembered of it, in a flat tensor."""
        piece = self._piece(parameter)
        if piece is None:
            return Part(_shape(parameter))
        return Part.stretch(_shape(parameter), piece.first, flat.detach()[piece.start : piece.start + piece.size])

    def _share_out(self, parameter: nn.Parameter, kept: Kept, name: str) -> None:
        """Give every rank its part of a parameter as forward passes use it; rank 0 reads it, one at a time."""
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            if dist.get_rank() == 0:
                parameter.copy_(kept.one(name))

    def _flat(self, parameter: Tensor) -> Tensor:
        """The flat tensor in full precision that this rank steps on, of the parameter's group."""
        if self._stage == 3:
            group, _, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
            flat: Tensor = self._zero.fp32_partitioned_groups_flat[group]
        else:
            (flat,) = self._optimizer.param_groups[self._groups[id(parameter)]]["params"]
        return flat

    def _piece(self, parameter: Tensor) -> _Piece | None:
        """This rank's part of a parameter, None if it has none."""
        if self._stage == 3:
            _, start, size = self._zero.grad_position[self._zero.get_param_id(parameter)]
            first = size * dist.get_rank()
            size = min(size, _shape(parameter).numel() - first)
            return _Piece(first, start, size) if size > 0 else None
        mapping: Any = getattr(parameter, "_hp_mapping", None)
        if mapping is None:
            return None
        of_flat = mapping.hp_fragment_address
        return _Piece(mapping.lp_fragment_address.start, of_flat.start, of_flat.numel)


def _of_first(values: Tensor) -> Part:
    """What every rank has, and rank 0 keeps."""
    return Part.whole(values) if dist.get_rank() == 0 else Part(values.shape)


def _shape(value: Tensor) -> torch.Size:
    """The shape of a whole parameter or buffer; one in parts is empty itself."""
    shape: torch.Size = getattr(value, "ds_shape", value.shape)
    return shape
