"""Telling that memory ran out, on one rank or on any, and letting go of what was there."""

from __future__ import annotations

import gc

import torch
from torch import nn

from launcher.errors import LauncherError
from launcher.train.engines.base import Engine

# What PyTorch says where it raises no OutOfMemoryError: of the host's memory, and of libraries of a GPU's.
_SAYS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


class NoMemoryError(LauncherError):
    """Memory ran out, and nothing smaller can be tried: it would run out again."""


class MemoryRanOutError(RuntimeError):
    """Memory ran out; the message says where, and what to do. Another try from the last checkpoint may go better."""


def ran_out(error: BaseException) -> bool:
    """Whether an exception, or the one that it was raised from, says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _SAYS):
        return True
    cause = error.__cause__
    return cause is not None and cause is not error and ran_out(cause)  # `raise error from error` would go round


def on_any_rank(engine: Engine, here: bool) -> bool:
    """Whether something holds on any rank. It goes over the CPU, and waits for no device.

    Args:
        engine: all of its ranks must ask.
        here: whether it holds on this one.
    """
    (found,) = engine.reduce_over_ranks(torch.tensor([int(here)], dtype=torch.uint8), "max").read()
    return bool(found)


def let_go(model: nn.Module, device: torch.device) -> None:
    """Let go of gradients and of what a failed forward or backward has left, so that others can be tried.

    Args:
        model: its gradients go.
        device: where it lives; memory that is free but in pieces goes back to a GPU.
    """
    for parameter in model.parameters():
        parameter.grad = None
    gc.collect()  # a graph that refers to itself would keep its memory until some later time
    if device.type == "cuda":
        torch.cuda.empty_cache()
