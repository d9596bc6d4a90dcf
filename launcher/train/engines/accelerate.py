"""accelerate's `Accelerator` around DistributedDataParallel: one reduction of the gradients per update."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DynamoBackend
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from launcher.errors import Mistake, RequestError
from launcher.recipe.parallel_section import ParallelSection
from launcher.train.engines.ddp import DdpEngine

_SHARDING = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM")


class AccelerateEngine(DdpEngine):
    """Gradient sync by the DistributedDataParallel that `Accelerator.prepare_model` makes.

    Only what belongs to the ranks is left to accelerate: the wrapper and its `no_sync`. It is told to do nothing else,
    since each of these things would be done twice: it casts no forward pass (`mixed_precision`), divides no loss (its
    `backward` is not called), counts no micro-steps, and its scheduler and data loader are not used.
    """

    def _wrapped(self, module: nn.Module, settings: ParallelSection) -> DistributedDataParallel:
        self._accelerator = accelerator_for(self.device, settings)
        wrapped = self._accelerator.prepare_model(module)
        if isinstance(wrapped, DistributedDataParallel):
            return wrapped
        asked = [f"{name}={os.environ[name]}" for name in _SHARDING if name in os.environ]
        raise RequestError(
            [
                Mistake(
                    "parallel.engine",
                    f"accelerate made {type(wrapped).__name__} of the model, not DistributedDataParallel; in the "
                    f"environment: {', '.join(asked) or 'nothing that asks for it'}",
                    "Take these variables out of the environment, or set parallel.engine=ddp",
                )
            ]
        )

    def _not_reduced(self) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = self._accelerator.no_sync(self._ddp)
        return context


def accelerator_for(device: torch.device, settings: ParallelSection) -> Accelerator:
    """One that joins the process group that is there, and does nothing of its own accord.

    What is not said here, it would take from the environment, where `accelerate launch` puts its config file.
    """
    ddp = DistributedDataParallelKwargs(
        bucket_cap_mb=settings.bucket_mb,
        find_unused_parameters=settings.find_unused_parameters,
        gradient_as_bucket_view=True,
    )
    accelerator = Accelerator(
        mixed_precision="no",
        dynamo_backend=DynamoBackend.NO,
        cpu=device.type == "cpu",
        device_placement=False,
        kwargs_handlers=[ddp],
    )
    # The variable that the launcher sets for scripts comes before the argument of the same name (accelerate 1.15).
    accelerator.gradient_accumulation_steps = 1
    return accelerator
