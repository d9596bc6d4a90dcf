"""`torch.compile` of a model, in place: its type, the names of its parameters and its hooks stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def compile_model(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile what a task calls of a model: the model as a whole, or its parts one by one (a trunk, then heads).

    Nothing is compiled before it is called. Micro-batches of one shape share what was compiled for the first of them.
    With the first one of another shape (a tail) sizes that have changed become variables, and what was compiled then
    serves every size: there is one more compilation, not one for each length of text.

    Args:
        model: the model, as its engine holds it.
        backend: what compiles, for tests: a name that torch.compile knows, or a function.
    """
    for module in called_by_tasks(model):
        module._compiled_call_impl = torch.compile(_call_of(module), backend=backend)


def is_compiled(model: nn.Module) -> bool:
    """Whether a model was compiled in place."""
    return model._compiled_call_impl is not None


def called_by_tasks(model: nn.Module) -> list[nn.Module]:
    """What is compiled of a model, each by itself: the model, and those parts of it that a task may call instead."""
    return [model, *_parts(model)]


@contextmanager
def as_written(model: nn.Module) -> Iterator[None]:
    """Run a model that was compiled in place as it was written, for as long as the context lasts."""
    compiled = [(module, module._compiled_call_impl) for module in called_by_tasks(model)]
    for module, _ in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in compiled:
            module._compiled_call_impl = call


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, _CONTAINERS):
            yield from _parts(child)
        else:
            yield child


def _call_of(module: nn.Module) -> Callable[..., Any]:
    """What calling a module does. `Module.compile` compiles no module of PyTorch's own (measured, torch 2.13)."""

    def call(*arguments: Any, **named: Any) -> Any:
        return module._call_impl(*arguments, **named)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    call.__code__ = call.__code__.replace()  # PyTorch gives up after eight compilations of one code object
    return call
