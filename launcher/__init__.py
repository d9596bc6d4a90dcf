"""Distributed training launcher: exact gradient accumulation over DistributedDataParallel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.train.task import Loss, Task

__all__ = ["Loss", "Task"]


def __getattr__(name: str) -> Any:
    """Hand the public names on when they are asked for: they import torch, which the command line must not."""
    if name in __all__:
        from launcher.train import task

        return getattr(task, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
