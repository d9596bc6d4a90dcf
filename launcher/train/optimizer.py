"""The optimizer of a recipe, and the learning rate of each update."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from launcher.plan.learning_rate import LearningRatePlan
from launcher.recipe.schema import OptimizerSection


def build_optimizer(
    section: OptimizerSection, groups: Iterable[Any], model: nn.Module, rate: LearningRatePlan
) -> torch.optim.Optimizer:
    """The optimizer, with its peak learning rates.

    Args:
        section: the recipe's optimizer.
        groups: what `Task.parameter_groups` returned.
        model: the model, on its device: fused kernels are used where that has them.
        rate: the plan of the learning rate, whose scale multiplies the rate of every group.

    Raises:
        ValueError: there is nothing to train, or parameters with gradients are in no group: their gradients would be
            clipped with the others, and never be cleared.
    """
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in model.parameters())
    shared_out = any(hasattr(parameter, "to_local") for parameter in model.parameters())  # DTensors
    optimizer: torch.optim.Optimizer
    if section.name == "adamw":
        optimizer = torch.optim.AdamW(
            groups, lr=section.lr, betas=section.betas, eps=section.eps, weight_decay=section.weight_decay, fused=fused
        )
    else:
        optimizer = torch.optim.SGD(
            groups,
            lr=section.lr,
            momentum=section.momentum,
            weight_decay=section.weight_decay,
            nesterov=section.nesterov,
            fused=fused and not shared_out,  # torch 2.13 has no fused SGD for parameters in parts
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if missing:
        raise ValueError(
            f"Task.parameter_groups leaves out {len(missing)} parameters that have gradients, such as {missing[0]}: "
            "freeze them in Task.model with requires_grad_(False), or give them to the optimizer"
        )
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"] * rate.scale
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every parameter group its learning rate: its peak times the schedule's factor of the update."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
