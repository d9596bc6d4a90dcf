"""Distributed training launcher: exact gradient accumulation over DistributedDataParallel."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.train.accumulator import Accumulator
    from launcher.train.task import Loss, Task

__all__ = ["Accumulator", "Loss", "Task"]

_HOMES = {"Accumulator": "accumulator", "Loss": "task", "Task": "task"}


def __getattr__(name: str) -> Any:
    """Hand the public names on when they are asked for: they import torch, which the command line must not."""
    if name in _HOMES:
        return getattr(import_module(f"launcher.train.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
