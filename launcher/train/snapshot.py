"""The state of training between two updates, as it is kept in files and taken up again: tensors, and numbers.

Nothing of it is code: tensors go to safetensors files, all else to JSON, whose floats are exact.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Numbers = dict[str, Any]
"""What JSON holds."""

SAME = "same"
"""In the numbers of a model's state: name → the name that a tensor of the same memory is kept under."""


@dataclass(frozen=True)
class Tensors:
    """Named tensors, with what belongs to them and is none.

    Attributes:
        tensors: each has a memory of its own.
        numbers: the rest.
    """

    tensors: Mapping[str, Tensor]
    numbers: Numbers


def model_state(model: nn.Module) -> Tensors:
    """The parameters and buffers of a model; one that has several names (a tied weight) is kept once.

    Raises:
        TypeError: the model keeps something in its state that is no tensor.
    """
    kept: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise TypeError(f"the model's state holds {name}, a {type(value).__name__}: checkpoints hold tensors only")
        # Views of one memory that differ in anything are kept apart, each as a copy.
        place = (value.data_ptr(), value.dtype, value.shape, value.stride()) if value.numel() else (name,)
        if place in first:
            same[name] = first[place]
        else:
            first[place] = name
            kept[name] = value.detach()
    return kept_once(kept, same)


def load_model_state(model: nn.Module, state: Tensors) -> None:
    """Give a model its parameters and buffers back.

    Raises:
        OtherModelError: it is another model.
    """
    tensors = under_all_names(state.tensors, state.numbers)
    refuse_other_model(tensors, model.state_dict())
    model.load_state_dict(tensors)


def kept_once(tensors: Mapping[str, Tensor], same: Mapping[str, str]) -> Tensors:
    """The state of a model of which each memory has one name.

    Args:
        tensors: name → tensor.
        same: every other name → the name that its tensor has there.
    """
    return Tensors(_apart(tensors), {SAME: dict(same)})


def kept_as(name: str, numbers: Numbers) -> str:
    """The name that a tensor of a model's state is kept under."""
    kept: str = numbers[SAME].get(name, name)
    return kept


def under_all_names(tensors: Mapping[str, Tensor], numbers: Numbers) -> dict[str, Tensor]:
    """The tensors of a model's state, a tied weight under each of its names."""
    return {**tensors, **{name: tensors[kept] for name, kept in numbers[SAME].items()}}


def first_names(state: Mapping[str, object]) -> tuple[dict[str, str], dict[str, Any]]:
    """Each tensor of a model's state once, under the first of its names.

    Args:
        state: name → tensor, where one that has several names is the same object under each.

    Returns:
        Every other name → the first, and the first names → tensor.
    """
    first: dict[int, str] = {}
    same = {name: first[id(value)] for name, value in state.items() if first.setdefault(id(value), name) != name}
    return same, {name: value for name, value in state.items() if name not in same}


def refuse_other_model(kept: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Make sure that a state is that of a model.

    Args:
        kept: the tensors of the state under all names.
        own: those of the model.

    Raises:
        OtherModelError: it is another model.
    """
    differs = _difference(kept, own)
    if differs:
        raise OtherModelError(differs)


class OtherModelError(Exception):
    """A state is that of another model; the message is a clause that names the first difference."""


def _difference(kept: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    for name, value in own.items():
        if name not in kept:
            return f"{name} is new in the model"
        if kept[name].shape != value.shape:
            return f"{name} is {_shape(kept[name])} in the checkpoint, and {_shape(value)} in the model"
    gone = next((name for name in kept if name not in own), None)
    return f"{gone} is in the checkpoint, and not in the model" if gone is not None else None


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "a number"


def optimizer_state(optimizer: torch.optim.Optimizer) -> Tensors:
    """What an optimizer remembers of each parameter. Its settings are the recipe's, and not kept."""
    state = optimizer_values(optimizer)
    return Tensors(_apart({name: values.detach() for name, values in state.tensors.items()}), state.numbers)


def optimizer_values(optimizer: torch.optim.Optimizer) -> Tensors:
    """As `optimizer_state`, in the optimizer's own tensors, of which a rank may have a part only."""
    tensors: dict[str, Tensor] = {}
    numbers: Numbers = {}
    for index, remembered in optimizer.state_dict()["state"].items():
        for key, value in remembered.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            elif value is None or isinstance(value, bool | int | float):
                numbers[f"{index}.{key}"] = value
            else:
                raise TypeError(f"the optimizer remembers {key}, a {type(value).__name__}: checkpoints have no such")
    return Tensors(tensors, numbers)


def optimizer_kind(optimizer: torch.optim.Optimizer, model: nn.Module) -> Numbers:
    """Whose memory an optimizer's state is: its algorithm, and the parameters in its order, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [names.get(id(parameter), "") for group in optimizer.param_groups for parameter in group["params"]]
    return {"algorithm": type(optimizer).__name__, "parameters": held}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Tensors) -> None:
    """Give an optimizer its memory back; it keeps its settings."""
    remembered: dict[int, dict[str, Any]] = {}
    for name, value in [*state.tensors.items(), *state.numbers.items()]:
        index, _, key = name.partition(".")
        remembered.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": remembered, "param_groups": optimizer.state_dict()["param_groups"]})


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, none sharing memory with another: those that would are copied."""
    memories: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        alone = whole and tensor.untyped_storage().data_ptr() not in memories
        apart[name] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
        memories.add(apart[name].untyped_storage().data_ptr())
    return apart


def randomness(device: torch.device) -> Numbers:
    """Where this rank's random numbers have got to: Python's, numpy's, torch's."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": {name: _in_text(get()) for name, get, _ in _generators(device)},
    }


def restore_randomness(numbers: Numbers, device: torch.device) -> None:
    """Go on with the random numbers that `randomness` has noted."""
    version, words, gauss = numbers["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = numbers["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    for name, _, put in _generators(device):
        if name in numbers["torch"]:
            put(_from_text(numbers["torch"][name]))


def _generators(device: torch.device) -> Iterator[tuple[str, Any, Any]]:
    yield "cpu", torch.get_rng_state, torch.set_rng_state
    if device.type == "cuda":
        yield (
            "cuda",
            lambda: torch.cuda.get_rng_state(device),
            lambda state: torch.cuda.set_rng_state(state, device),
        )


def _in_text(state: Tensor) -> str:
    return base64.b64encode(bytes(state.tolist())).decode("ascii")


def _from_text(text: str) -> Tensor:
    return torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
