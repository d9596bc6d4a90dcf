"""DeepSpeed's ZeRO: ranks share out the optimizer, gradients and parameters, as the stage says.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.plan.windows import Window
from launcher.train.chunks import Kept, Parts
from launcher.train.engines.any_forward import AnyForward
from launcher.train.engines.base import Forward, Reductions
from launcher.train.engines.gradients import gradients_of, padded_elements, squared_norm, trained
from launcher.train.engines.process_group import broadcast_from_first, gather
from launcher.train.engines.small_reductions import Operation, PendingValues, ReducedValues
from launcher.train.engines.zero_scaler import ZeroScaler
from launcher.train.engines.zero_start import GradientTraffic, start_deepspeed
from launcher.train.engines.zero_state import ZeroState
from launcher.train.snapshot import Tensors

T = TypeVar("T")


class DeepspeedEngine:
    """Gradient sync, clipping and the optimizer step by DeepSpeed, in windows that are ours.

    Stages 0 and 1 reduce at the boundary; 2 and 3 in every micro-step, since no rank keeps the whole gradient. The
    default process group must be up, for one rank too.

    Args:
        model: the model, on its device.
        device: that device.
        config: DeepSpeed's configuration.
        timeout: seconds that a rank waits for the others.

    Attributes:
        scaler: scales the losses of fp16, as DeepSpeed does it.
    """

    sees_parts = False

    def __init__(
        self, model: nn.Module, device: torch.device, config: Mapping[str, Any], timeout: float = 600.0
    ) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = device
        self.model = model
        self._config = dict(config)
        self._stage: int = self._config["zero_optimization"]["stage"]
        self.needs_every_gradient = True
        self.equal_steps = self._stage >= 2
        self.shards = self.world_size if self._stage == 3 else 1
        self.shard = self.rank if self._stage == 3 else 0
        # Stage 3 fills each parameter up until the ranks have equal parts of it.
        self._elements = sum(padded_elements((parameter.numel(),), self.shards) for parameter in trained(model))
        self._has_buffers = any(True for _ in model.buffers())
        self._timeout = timeout
        self._traffic = GradientTraffic()
        self._steps = 0  # of the window
        self.scaler = ZeroScaler(device)

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Let DeepSpeed take the model and the optimizer to pieces, each rank keeping its own.

        Raises:
            RuntimeError: DeepSpeed would train in another way than the configuration says.
        """
        groups = [list(group["params"]) for group in optimizer.param_groups]
        self.share_buffers()
        self._engine, zero = start_deepspeed(
            AnyForward(self.model), optimizer, self._config, self._traffic, self._timeout
        )
        self._state = ZeroState(self.model, groups, optimizer, zero, self._stage)
        self.scaler.follow(zero)
        # At stage 0 it fills in zeros for gradients that are missing, and reduces: they must be looked at before.
        self._engine.enable_backward_allreduce = self._stage > 0

    def forward_only(self, forward: Callable[[nn.Module], T]) -> T:
        """A forward pass inside the module that DeepSpeed's hooks are on."""
        found: T = self._engine.module(forward)
        return found

    def begin(self, window: Window, step: int) -> None:
        """DeepSpeed adds up the gradients of a rank's micro-batches itself."""

    def micro_step(self, forward: Forward, *, boundary: bool) -> None:
        """Forward and backward of one micro-step.

        The loss carries the one division of the update: DeepSpeed's own, by the number of ranks, is undone by a factor,
        and that by the accumulation steps is turned off.
        """
        self._steps += 1
        self._engine.set_gradient_accumulation_boundary(boundary)
        with self._traffic.counted():
            loss = self._engine(forward)
            if loss is None:
                raise RuntimeError("DeepspeedEngine takes the loss of a micro-step backward itself, once")
            self._engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def reduce(self) -> Reductions:
        """The reductions of the window, held against the gradients of the parameters.

        The next window begins with the buffers of rank 0, as it does under DDP.
        """
        missing = 0
        if self._stage == 0:
            missing = sum(parameter.numel() for parameter in trained(self.model) if parameter.grad is None)
            with self._traffic.counted():
                self._engine.allreduce_gradients()
        reductions, elements = self._traffic.take()
        elements -= missing
        steps, self._steps = self._steps, 0
        expected = self._elements * (steps if self.equal_steps else 1)
        if elements < expected:
            raise RuntimeError(
                f"{elements:,} of {expected:,} elements of the gradient were reduced: the loss does not use every "
                "parameter. Freeze those it never uses, or set parallel.engine=ddp and "
                "parallel.find_unused_parameters=true"
            )
        if self._has_buffers:
            self.share_buffers()
        return reductions

    def watch_parts(self, watch: bool) -> None:
        """Ranks do not keep their own gradients apart."""

    def part_squares(self) -> list[Tensor]:
        """None can be told."""
        return []

    def clip(self, max_norm: float | None) -> Tensor:
        """The square of the norm, where stage 0 leaves the gradient whole; DeepSpeed clips as it steps."""
        square = squared_norm(gradients_of(self.model))
        return square if self.rank == 0 else torch.zeros_like(square)

    def step(
        self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, max_norm: float | None
    ) -> tuple[bool, Tensor]:
        """Let DeepSpeed unscale, clip, step and clear, as its configuration says."""
        square = self.clip(None) if self._stage == 0 else None
        self._engine.step()
        if square is None:
            norm = torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float64, device=self.device)
            square = norm.square() if self.rank == 0 else torch.zeros_like(norm)
        return bool(self._engine.was_step_applied()), square

    def finite(self) -> bool:
        """Whether the gradient is, at stage 0; from stage 1 on DeepSpeed finds out as it steps, and leaves it out."""
        return self._stage > 0 or bool(squared_norm(gradients_of(self.model)).isfinite())

    def model_state(self) -> Tensors | Parts:
        """What this rank is to keep of the parameters in full precision, and of the buffers."""
        return self._state.model()

    def load_model_state(self, kept: Kept) -> None:
        """Give every rank its part of the parameters, and the buffers."""
        self._state.load_model(kept)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> Tensors | Parts:
        """What this rank is to keep of what the optimizer remembers."""
        return self._state.optimizer()

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, kept: Kept) -> None:
        """Give every rank its part of what the optimizer remembers."""
        self._state.load_optimizer(kept)

    def reduce_over_ranks(self, values: Tensor, operation: Operation = "sum") -> PendingValues:
        """Begin to reduce a small vector over all ranks."""
        return ReducedValues(values, operation)

    def gather(self, value: Any) -> list[Any]:
        """A small object of every rank."""
        return gather(value)

    def share_buffers(self) -> None:
        """Give every rank the buffers of rank 0."""
        broadcast_from_first(self.model.buffers())
