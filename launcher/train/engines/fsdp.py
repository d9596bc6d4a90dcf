"""FSDP2: each rank holds a part of the parameters, of their gradients and of what the optimizer remembers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from launcher.plan.windows import Window
from launcher.recipe.parallel_section import FsdpSection
from launcher.train.chunks import Kept, Parts
from launcher.train.engines.any_forward import AnyForward
from launcher.train.engines.base import Forward, Reductions
from launcher.train.engines.gradients import padded_elements, squared, squared_norm, trained
from launcher.train.engines.one_pass import OnePass
from launcher.train.engines.parts import own_part
from launcher.train.engines.process_group import broadcast_from_first, gather
from launcher.train.engines.shard_traffic import ShardTraffic
from launcher.train.engines.sharded_state import ShardedState
from launcher.train.engines.sharding import blocks_of, compute_again_in_backward, mesh_of, shard
from launcher.train.engines.small_reductions import Operation, PendingValues, ReducedValues
from launcher.train.gradient_step import step_on_gradient

T = TypeVar("T")


class FsdpEngine:
    """Gradient sync by `torch.distributed.fsdp.fully_shard` over the default process group.

    A block's parameters are gathered for its forward and once more for its backward, in every micro-step; gradients
    are reduced at the boundary, or in every micro-step where the recipe wants to save the memory that they wait in.

    Args:
        model: the model, on any device: each block goes to the rank's device as it is shared out.
        device: that device.
        settings: the recipe's `parallel.fsdp`.
        copies: of the model, each over as many ranks: one for each machine, or one in all.
        gathered_as: number format of the parameters that are gathered; None: their own.
        timeout: seconds that a rank waits for the others.

    Raises:
        RequestError: the model has not the classes that the recipe names, or cannot be shared out.
    """

    needs_every_gradient = False
    equal_steps = True

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        settings: FsdpSection,
        copies: int = 1,
        gathered_as: torch.dtype | None = None,
        timeout: float = 600.0,
    ) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = device
        self.model = model
        self.sees_parts = settings.defer_reduction  # what a micro-step reduces is no rank's whole gradient
        self._defers = settings.defer_reduction
        self._traffic = ShardTraffic()
        self._norms: list[Tensor] = []
        blocks = blocks_of(model, settings.wrap)
        if settings.checkpoint_activations:
            compute_again_in_backward(blocks)
        self._one_pass = OnePass(blocks)
        mesh = mesh_of(device, copies, timeout)
        self._shard_group = mesh.get_group("shard")
        self.shards, self.shard = dist.get_world_size(self._shard_group), dist.get_rank(self._shard_group)
        # A reduce-scatter takes rows that divide evenly among the ranks; where they do not, it adds some of zeros.
        self._elements = sum(padded_elements(parameter.shape, self.shards) for parameter in trained(model))
        self._root = AnyForward(model)
        # Half precision is that of autocast over parameters that are gathered in half: half the bytes, and of one GPT's
        # gradient 2.6e-3 is lost where autocast over whole ones loses 2.3e-3, and FSDP's own way 2.7e-3. What goes into
        # a block is left as autocast has it. Gradients are added up in their own format.
        policy = MixedPrecisionPolicy(gathered_as, gathered_as and torch.float32, cast_forward_inputs=False)
        self._modules = shard(self._root, blocks, mesh, settings, policy, self._traffic)
        self._state = ShardedState(model, self.rank, self.shards, self.shard)
        self._copies = copies
        self._has_buffers = any(True for _ in model.buffers())
        self._begins = True  # a window

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer steps on this rank's parts as it is."""

    def forward_only(self, forward: Callable[[nn.Module], T]) -> T:
        """A forward pass for which all ranks gather the parameters; they let go of them after it."""
        found: T = self._root(forward)
        for module in self._modules:
            module.reshard()
        self._traffic.take()  # is no part of a window
        return found

    def begin(self, window: Window, step: int) -> None:
        """The rank's own gradient is one sum, whichever micro-batch adds to it."""

    def micro_step(self, forward: Forward, *, boundary: bool) -> None:
        """Forward and backward, together with all other ranks."""
        if self._begins and self._has_buffers:
            self.share_buffers()
        self._begins = boundary
        self._modules[0].set_requires_gradient_sync(boundary or not self._defers)
        if self._copies > 1:
            self._modules[0].set_requires_all_reduce(boundary)  # copies of the model add up their parts once
        with self._one_pass.watch():
            loss = self._root(forward)
        if loss is None:
            raise RuntimeError("FsdpEngine takes the loss of a micro-step backward itself, once")
        self._traffic.elements = 0
        loss.backward()
        if not self._defers and self._traffic.elements != self._elements:
            raise RuntimeError(
                f"{self._traffic.elements:,} of {self._elements:,} elements of the gradient were reduced: a micro-step "
                "does not use every parameter, and other ranks' parts would be added to the wrong ones. Set "
                "parallel.fsdp.defer_reduction=true, or parallel.engine=ddp and parallel.find_unused_parameters=true"
            )

    def reduce(self) -> Reductions:
        """What was issued in the window.

        FSDP leaves a parameter out that no forward pass has used, and the ranks need not agree about which.
        """
        reductions, self._norms = self._traffic.take()
        unused = [name for name, p in self.model.named_parameters() if p.requires_grad and p.grad is None]
        if unused:
            raise RuntimeError(
                f"{unused[0]} has no gradient: the loss does not use every parameter. Freeze those it never uses, or "
                "set parallel.engine=ddp and parallel.find_unused_parameters=true"
            )
        return reductions

    def watch_parts(self, watch: bool) -> None:
        """Take the norm of this rank's own gradient from now on, or no more."""
        self._traffic.take_norms = watch

    def part_squares(self) -> list[Tensor]:
        """The squared norm of this rank's own gradient."""
        return [squared(self._norms)] if self._norms else []

    def clip(self, max_norm: float | None) -> Tensor:
        """Clip the reduced gradient, of which this rank has a part."""
        gradients = self._gradients()
        square = squared_norm(gradients)
        if max_norm is not None:
            whole = square.clone()
            dist.all_reduce(whole, group=self._shard_group)
            scale = (max_norm / (whole.sqrt() + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(scale)
        return square if self.rank < self.shards else torch.zeros_like(square)  # of one copy of the model

    def _gradients(self) -> list[Tensor]:
        """This rank's parts of the gradients."""
        return [own_part(parameter.grad) for parameter in self.model.parameters() if parameter.grad is not None]

    def step(
        self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, max_norm: float | None
    ) -> tuple[bool, Tensor]:
        """Step on this rank's parts; the scaler hears of what overflows on any rank."""
        return step_on_gradient(optimizer, scaler, lambda: self.clip(max_norm))

    def finite(self) -> bool:
        """Whether the gradient is, all parts of it."""
        infinite = (~squared_norm(self._gradients()).isfinite()).to(torch.int32)
        dist.all_reduce(infinite, dist.ReduceOp.MAX)
        return not bool(infinite)

    def model_state(self) -> Parts:
        """What this rank is to keep of the parameters and buffers."""
        return self._state.model()

    def load_model_state(self, kept: Kept) -> None:
        """Take this rank's parts of the parameters, and the buffers."""
        self._state.load_model(kept)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> Parts:
        """What this rank is to keep of what the optimizer remembers."""
        return self._state.optimizer(optimizer)

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, kept: Kept) -> None:
        """Take this rank's parts of what the optimizer remembered."""
        self._state.load_optimizer(optimizer, kept)

    def reduce_over_ranks(self, values: Tensor, operation: Operation = "sum") -> PendingValues:
        """Begin to reduce a small vector over all ranks."""
        return ReducedValues(values, operation)

    def gather(self, value: Any) -> list[Any]:
        """A small object of every rank."""
        return gather(value)

    def share_buffers(self) -> None:
        """Give every rank the buffers of rank 0."""
        broadcast_from_first(self.model.buffers())
