"""The state of a model and an optimizer that DeepSpeed has taken to pieces, as a whole: one parameter at a time.

Its own checkpoints are pickles, one per rank. These are the files that every engine writes and reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.train.snapshot import (
    Numbers,
    Tensors,
    kept_once,
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

    def model(self, keep: bool) -> Tensors:
        """The whole parameters in full precision, and the buffers; every rank must ask.

        Args:
            keep: whether this rank keeps them; others need room for one at a time.
        """
        if self._stage == 0:
            return model_state(self._model)
        first: dict[int, str] = {}
        same: dict[str, str] = {}
        tensors: dict[str, Tensor] = {}
        for name, value in self._model.state_dict(keep_vars=True).items():
            if id(value) in first:
                same[name] = first[id(value)]
                continue
            first[id(value)] = name
            whole = self._whole_parameter(value) if isinstance(value, nn.Parameter) else value.detach()
            if keep:
                tensors[name] = whole.cpu()
        return kept_once(tensors, same)

    def load_model(self, state: Tensors) -> None:
        """Give this rank its part of the parameters, and the buffers.

        Raises:
            OtherModelError: they are those of another model.
        """
        if self._stage == 0:
            load_model_state(self._model, state)
            return
        tensors, own = under_all_names(state), self._model.state_dict(keep_vars=True)
        shapes = {name: torch.empty(_shape(value), device="meta") for name, value in own.items()}
        refuse_other_model(tensors, shapes)
        with torch.no_grad():
            for name, value in own.items():
                if isinstance(value, nn.Parameter):
                    self._put_parameter(value, tensors[name])
                else:
                    value.copy_(tensors[name])

    def optimizer(self, keep: bool) -> Tensors:
        """What the optimizer remembers of each whole parameter; every rank must ask.

        Args:
            keep: whether this rank keeps it.
        """
        if self._stage == 0:
            return optimizer_state(self._optimizer)
        tensors: dict[str, Tensor] = {}
        numbers: Numbers = {}
        for index, parameter in enumerate(self._parameters):
            if not parameter.requires_grad:
                continue
            flat = self._flat(parameter)
            for key, value in sorted(self._optimizer.state[flat].items() if flat in self._optimizer.state else ()):
                if not isinstance(value, Tensor):
                    numbers[f"{index}.{key}"] = value
                    continue
                whole = self._whole(parameter, value) if value.shape == flat.shape else value.detach().clone()
                if keep:
                    tensors[f"{index}.{key}"] = whole.cpu()
        return Tensors(tensors, numbers)

    def load_optimizer(self, state: Tensors) -> None:
        """Give this rank its part of what the optimizer remembers."""
        if self._stage == 0:
            load_optimizer_state(self._optimizer, state)
            return
        for name, value in [*state.tensors.items(), *state.numbers.items()]:
            index, _, key = name.partition(".")
            self._remember(self._parameters[int(index)], key, value)

    def _remember(self, parameter: nn.Parameter, key: str, value: Any) -> None:
        flat = self._flat(parameter)
        remembered = self._optimizer.state[flat]
        if not isinstance(value, Tensor):
            remembered[key] = value
        elif key == "step":
            on_device = any(group.get("fused") or group.get("capturable") for group in self._optimizer.param_groups)
            remembered[key] = value.to(flat.device if on_device else "cpu", copy=True)
        else:
            if key not in remembered:
                remembered[key] = torch.zeros_like(flat)
            self._put_piece(parameter, remembered[key], value)

    def _flat(self, parameter: nn.Parameter) -> Tensor:
        """The flat tensor in full precision that this rank steps on, of the parameter's group."""
        if self._stage == 3:
            group, _, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
            flat: Tensor = self._zero.fp32_partitioned_groups_flat[group]
        else:
            (flat,) = self._optimizer.param_groups[self._groups[id(parameter)]]["params"]
        return flat

    def _piece(self, parameter: nn.Parameter) -> _Piece | None:
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

    def _whole(self, parameter: nn.Parameter, flat: Tensor) -> Tensor:
        """A parameter, or what is remembered of it, of which every rank has a part in a flat tensor."""
        shape = _shape(parameter)
        whole = torch.zeros(shape.numel(), dtype=flat.dtype, device=parameter.device)
        piece = self._piece(parameter)
        if piece is not None:
            whole[piece.first : piece.first + piece.size] = flat.detach()[piece.start : piece.start + piece.size]
        dist.all_reduce(whole.view(torch.uint8))  # each byte comes from one rank: as numbers, -0.0 + 0.0 would be 0.0
        return whole.view(shape)

    def _put_piece(self, parameter: nn.Parameter, flat: Tensor, whole: Tensor) -> None:
        piece = self._piece(parameter)
        if piece is not None:
            part = whole.flatten()[piece.first : piece.first + piece.size]
            flat.detach()[piece.start : piece.start + piece.size] = part.to(flat.device)

    def _whole_parameter(self, parameter: nn.Parameter) -> Tensor:
        if parameter.requires_grad:
            return self._whole(parameter, self._flat(parameter))
        with self._gathered(parameter):  # a frozen one: no optimizer has it in full precision
            return parameter.detach().clone()

    def _put_parameter(self, parameter: nn.Parameter, whole: Tensor) -> None:
        if parameter.requires_grad:
            self._put_piece(parameter, self._flat(parameter), whole)
        with self._gathered(parameter, modifier_rank=0):
            parameter.copy_(whole)

    def _gathered(self, parameter: nn.Parameter, modifier_rank: int | None = None) -> AbstractContextManager[Any]:
        """While the whole of a parameter is there to be read, or on every rank to be changed alike."""
        if self._stage < 3:
            return nullcontext()
        from deepspeed.runtime.zero import GatheredParameters

        gathered: AbstractContextManager[Any] = GatheredParameters([parameter], modifier_rank=modifier_rank)
        return gathered


def _shape(value: Tensor) -> torch.Size:
    """The shape of a whole parameter or buffer; one in parts is empty itself."""
    shape: torch.Size = getattr(value, "ds_shape", value.shape)
    return shape
