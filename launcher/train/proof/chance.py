"""Random numbers in a model or a loss: who draws them, and the same computation without them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from launcher.train.randomness import seed_everything

OUTSIDE = "Task.loss"  # who draws where no module is at work


class _WithoutChance(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Every random draw of torch gives its mean, or a number that is always the same; dropout drops nothing.

    It works below the functions that a model calls, so that it finds dropout in any layer or function, also in a
    fused attention, and noise of a generator of the model's own.
    """

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation of torch, without chance if it would draw."""
        given = dict(kwargs or {})
        return _without_chance(func, args, given) if _draws(func, args, given) else func(*args, **given)


def without_chance() -> AbstractContextManager[object]:
    """A context in which no operation of torch draws random numbers."""
    mode: AbstractContextManager[object] = _WithoutChance()  # type: ignore[no-untyped-call]
    return mode


class SeededForward:
    """A context that seeds Python, numpy and torch as a forward pass begins: each one draws the same numbers.

    Args:
        seed: the seed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> None:
        seed_everything(self._seed, rank=None)

    def __exit__(self, *leaving: object) -> None:
        """Nothing is put back: whoever needs other numbers seeds again."""


def who_draws(model: nn.Module, forward: Callable[[], object], seed: int) -> tuple[str, ...]:
    """The modules that draw random numbers in a forward pass, as `blocks.0.drop (Dropout)`, in the order of it.

    Args:
        model: the model.
        forward: the forward pass.
        seed: what it begins with seeding Python, numpy and torch with.
    """
    seed_everything(seed, rank=None)
    watch = _DrawWatch()
    with watch.over(model), watch:
        forward()
    watch.look()
    return tuple(watch.found)


class _DrawWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which module is at work when random numbers are drawn."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, None] = {}
        self._at_work = [OUTSIDE]
        self._other_state = _state_outside_torch()

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation of torch, and note whether it drew."""
        given = dict(kwargs or {})
        if _draws(func, args, given):
            self._note()
        return func(*args, **given)

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """Know which of the model's modules is at work."""
        handles = []
        for name, module in model.named_modules():
            label = f"{name or 'the model itself'} ({type(module).__name__})"
            handles.append(module.register_forward_pre_hook(self._enter(label)))
            handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def look(self) -> None:
        """Note whether Python's or numpy's random numbers have been drawn since the last look."""
        state = _state_outside_torch()
        if state != self._other_state:
            self._note()
        self._other_state = state

    def _enter(self, label: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, inputs: Any) -> None:
            self.look()
            self._at_work.append(label)

        return enter

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.look()
        self._at_work.pop()

    def _note(self) -> None:
        self.found[self._at_work[-1]] = None


def _state_outside_torch() -> tuple[object, ...]:
    kind, keys, place, *rest = np.random.get_state(legacy=True)
    return random.getstate(), kind, bytes(keys), place, *rest  # type: ignore[arg-type, unused-ignore]  # an array


def _draws(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation will draw random numbers with these arguments."""
    given = _named(func, args, kwargs)
    for rate in ("dropout_p", "dropout"):
        if rate in given:
            return bool(given[rate])
    if torch.Tag.nondeterministic_seeded not in func.tags or _name(func) == "_fused_sdp_choice":
        return False
    switched_off = any(given.get(switch) is False for switch in ("train", "training"))
    return not switched_off


def _without_chance(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a drawing operation gives without chance."""
    given, name = _named(func, args, kwargs), _name(func)
    for rate in ("dropout_p", "dropout"):
        if rate in given:
            return func(**{**given, rate: 0.0})
    if name == "native_dropout":  # autograd goes on to divide by 1 - p
        return given["input"] / (1 - given["p"]), torch.ones_like(given["input"], dtype=torch.bool)
    if name == "rrelu_with_noise":
        return func(**{**given, "lower": given["upper"]})
    drawn = func(*args, **kwargs)
    return _mean_in(drawn, name, given) if isinstance(drawn, Tensor) else drawn


def _mean_in(drawn: Tensor, name: str, given: Mapping[str, Any]) -> Tensor:
    """The tensor with what its random numbers are on average, in place."""
    if name == "randperm":
        return drawn.copy_(torch.arange(drawn.numel(), device=drawn.device))
    if name == "bernoulli" and isinstance(probability := given.get("p", given["self"]), Tensor | float):
        return drawn.copy_(probability) if isinstance(probability, Tensor) else drawn.fill_(probability)
    if name in ("normal", "normal_functional"):
        mean = given.get("mean", 0.0)
        return drawn.copy_(mean) if isinstance(mean, Tensor) else drawn.fill_(mean)
    if name in ("randn", "randn_like"):
        return drawn.zero_()
    low, high = given.get("from", given.get("low", 0)) or 0, given.get("to", 1)
    if name == "uniform":
        return drawn.fill_((low + high) / 2)
    return drawn.fill_(0.5) if drawn.is_floating_point() else drawn.fill_(low)


def _named(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by name; those that have their default are not handed on by torch."""
    arguments = func._schema.arguments
    defaults = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    return {**defaults, **dict(zip((argument.name for argument in arguments), args, strict=False)), **kwargs}


def _name(func: OpOverload) -> str:
    """Name of an operation, the same for the one in place."""
    return str(func._schema.name).partition("::")[2].rstrip("_")
