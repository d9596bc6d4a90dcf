"""Starting DeepSpeed in a process group that is up, and counting what it reduces."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.errors import Mistake, RequestError
from launcher.train.engines.base import Reductions

_REDUCTIONS = ("all_reduce", "reduce", "reduce_scatter", "reduce_scatter_tensor", "all_reduce_coalesced")
_GATHERS = ("all_gather_into_tensor", "all_gather", "all_gather_coalesced")
# Sums that ranks of one machine do in shared memory: built by a compiler when first wanted, which takes minutes.
_SHARED_MEMORY_OP = "deepspeed_shm_comm"


class GradientTraffic:
    """Counts what DeepSpeed hands to its reductions, and gathers of parameters, while a backward runs."""

    def __init__(self) -> None:
        self._counting = False
        self._calls = self._bytes = self._elements = self._gathers = self._gathered_bytes = 0

    def watch(self, backend: Any) -> None:
        """Count on DeepSpeed's own communication object from now on: all that it sends goes through it.

        Args:
            backend: that object.
        """
        for name in _REDUCTIONS:
            self._wrap(backend, name, self._reduced)
        for name in _GATHERS:
            self._wrap(backend, name, self._gathered)

    def _wrap(self, backend: Any, name: str, count: Any) -> None:
        real = getattr(backend, name, None)
        if real is None:
            return

        def counting(*arguments: Any, **options: Any) -> Any:
            count([*arguments, *options.values()])
            return real(*arguments, **options)

        setattr(backend, name, counting)

    def _reduced(self, given: list[Any]) -> None:
        if self._counting:
            tensor = max(_tensors(given), key=lambda each: each.numel())
            self._calls += 1
            self._bytes += tensor.nbytes
            self._elements += tensor.numel()

    def _gathered(self, given: list[Any]) -> None:
        tensors = list(_tensors(given))
        if self._counting and tensors[0].is_floating_point():
            self._gathers += 1
            self._gathered_bytes += max(tensor.nbytes for tensor in tensors)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """While gradients are computed."""
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    def take(self) -> tuple[Reductions, int]:
        """What was counted since the last time, and the elements of the gradients in it."""
        taken = Reductions(self._calls, self._bytes, self._gathers, self._gathered_bytes), self._elements
        self._calls = self._bytes = self._elements = self._gathers = self._gathered_bytes = 0
        return taken


def _tensors(given: list[Any]) -> Iterator[Tensor]:
    for value in given:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(list(value))


def refuse_float64(model: nn.Module) -> None:
    """Refuse a model that DeepSpeed would train in fp32 without a word, or at stage 0 fail to reduce (0.19.8).

    Args:
        model: the model.

    Raises:
        RequestError: a parameter is in float64.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float64:
            what = f"the parameter {name} is in float64, and DeepSpeed trains in fp32 at the most"
            raise RequestError(
                [Mistake("parallel.engine", what, "Return the model as .float(), or set parallel.engine=ddp")]
            )


def start_deepspeed(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Mapping[str, Any],
    traffic: GradientTraffic,
    timeout: float = 600.0,
) -> tuple[Any, Any]:
    """Hand a model and its optimizer to DeepSpeed.

    Args:
        model: the model.
        optimizer: of its parameters; its groups stay, and hold other parameters from then on.
        config: DeepSpeed's configuration.
        traffic: counts from then on.
        timeout: seconds that a rank waits for the others.

    Returns:
        DeepSpeed's engine, and its optimizer around the given one.
    """
    import deepspeed
    import deepspeed.comm.comm

    deepspeed.utils.logger.setLevel(logging.WARNING)
    # Of names that torch has renamed, at each of DeepSpeed's calls.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    deepspeed.ops.__compatible_ops__[_SHARED_MEMORY_OP] = False
    deepspeed.init_distributed(dist_init_required=False)
    backend = deepspeed.comm.comm.cdb
    # It makes groups of its own, in which ranks would wait for half an hour.
    backend.new_group = lambda ranks: dist.new_group(ranks, timeout=timedelta(seconds=timeout))
    traffic.watch(backend)
    engine, zero, _, _ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=dict(config), dist_init_required=False
    )
    return engine, zero
