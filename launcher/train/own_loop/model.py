"""The model of a loop of the user's own: what holds its ranks together, or why it cannot be accumulated here."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from launcher.train.own_loop.ddp_sync import AfterLastBackward, AtBoundary
from launcher.train.own_loop.sync import GradientSync, OneProcess

_SHARDED = {"FullyShardedDataParallel": "FSDP", "FSDPModule": "FSDP", "DeepSpeedEngine": "DeepSpeed"}
_AVERAGING_HOOKS = {"allreduce_hook", "fp16_compress_hook", "bf16_compress_hook"}
_HOOKS_OF_TORCH = "torch.distributed.algorithms.ddp_comm_hooks.default_hooks"


def gradient_sync(model: nn.Module, *, several_losses: bool) -> GradientSync:
    """What holds the ranks of a model together.

    Args:
        model: the user's model: in DDP where there are several processes, compiled or not.
        several_losses: whether a micro-step may have several backwards.

    Raises:
        TypeError: the model is not one that can be accumulated here.
        ValueError: it is, but not with the settings of its DDP.
    """
    _refuse_sharded(model)
    inner = getattr(model, "_orig_mod", model)  # of torch.compile
    if isinstance(inner, DistributedDataParallel):
        _refuse_settings(inner)
        return AfterLastBackward(inner) if several_losses else AtBoundary(inner, model)
    processes = _processes()
    if processes > 1:
        raise TypeError(
            f"{type(inner).__name__} is a plain module, but there are {processes} processes: give the Accumulator "
            "DistributedDataParallel(model), or what accelerator.prepare(model) returned"
        )
    return OneProcess(model)


def check_optimizer(optimizer: torch.optim.Optimizer, sync: GradientSync) -> None:
    """Make sure that the optimizer steps on nothing but reduced gradients.

    Raises:
        ValueError: it holds parameters that are not the model's.
    """
    known = {id(parameter) for parameter in sync.module.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    strangers = sum(id(parameter) not in known for parameter in held)
    if strangers and sync.world_size > 1:
        raise ValueError(
            f"the optimizer holds {strangers} of {len(held)} parameters that the model does not have, and whose "
            "gradients would not be reduced: make them part of the module inside of DistributedDataParallel"
        )


def _refuse_sharded(model: nn.Module) -> None:
    for module in model.modules():
        for kind in type(module).__mro__:
            if kind.__name__ in _SHARDED:
                raise TypeError(
                    f"the Accumulator cannot accumulate a model of {_SHARDED[kind.__name__]}, whose gradients are "
                    "sharded: it takes DistributedDataParallel, or one process"
                )


def _refuse_settings(ddp: DistributedDataParallel) -> None:
    if ddp.static_graph:
        raise ValueError(
            "DistributedDataParallel(static_graph=True) fails where its first backward is not reduced: leave "
            "static_graph out"
        )
    for hook, _ in ddp._comm_hooks:
        if hook.__module__ != _HOOKS_OF_TORCH or hook.__name__ not in _AVERAGING_HOOKS:
            raise ValueError(
                f"the model's DDP reduces by the communication hook {hook.__qualname__}, and whether that averages "
                f"over the ranks cannot be told: register none, or one of torch's {', '.join(sorted(_AVERAGING_HOOKS))}"
            )


def _processes() -> int:
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))
