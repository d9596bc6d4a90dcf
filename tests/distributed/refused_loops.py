"""Loops with an Accumulator that would go wrong without an error on several ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from launcher import Accumulator


def refusals() -> Iterator[tuple[str, Callable[[], object]]]:
    """What must be refused where there are several ranks, all of which do it."""

    def start(model: nn.Module, **options: Any) -> Accumulator:
        return Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), **{"micro_steps": 1, **options})

    def one_window(model: nn.Module, call: Callable[[Tensor], Tensor]) -> None:
        accumulator = start(model)
        for window in accumulator.windows([torch.ones(2, 3)]):
            for batch in window:
                window.backward(call(batch).mean())
            accumulator.step()

    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            used: Tensor = self.used(inputs)
            return used

    def with_hook() -> DistributedDataParallel:
        ddp = DistributedDataParallel(nn.Linear(3, 1))
        ddp.register_comm_hook(None, default_hooks.fp16_compress_wrapper(default_hooks.allreduce_hook))
        return ddp

    def left_half_way() -> None:
        accumulator = start(ddp, micro_steps=2)
        for window in accumulator.windows([torch.ones(2, 3)] * 2):
            for batch in window:
                assert not ddp.require_backward_grad_sync
                window.backward(ddp(batch).mean())
                break
            assert ddp.require_backward_grad_sync
            accumulator.step()

    def strange_optimizer() -> Accumulator:
        both = [*nn.Linear(3, 1).parameters(), *nn.Linear(3, 1).parameters()]
        return Accumulator(DistributedDataParallel(nn.Linear(3, 1)), torch.optim.SGD(both, lr=0.1), micro_steps=1)

    def sharded() -> nn.Module:
        from torch.distributed.fsdp import fully_shard  # takes a second and a half

        model = nn.Linear(4, 4)
        fully_shard(model)
        return model

    ddp, partly = DistributedDataParallel(nn.Linear(3, 1)), DistributedDataParallel(Partly())
    yield "plain module", lambda: start(nn.Linear(3, 1))
    yield "sharded", lambda: start(sharded())
    yield "static graph", lambda: start(DistributedDataParallel(nn.Linear(3, 1), static_graph=True))
    yield "communication hook", lambda: start(with_hook())
    yield "another's parameters", strange_optimizer
    yield "left half-way", left_half_way
    yield "the module inside", lambda: one_window(ddp, ddp.module)
    yield "an unused parameter", lambda: one_window(partly, partly)


def messages() -> dict[str, str]:
    """What the refusals say."""
    said = {}
    for name, refused in refusals():
        try:
            refused()
        except (TypeError, ValueError, RuntimeError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said
