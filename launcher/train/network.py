"""Timing the network between the ranks, and a micro-step of the user's own model beside it."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist

from launcher.plan.planner import Plan
from launcher.plan.traffic import traffic_of
from launcher.plan.windows import Window
from launcher.rundir.network import NetworkMeasured
from launcher.train.accumulation import Accumulation, LoadedWindow, MicroBatchData
from launcher.train.engines.single import SingleEngine
from launcher.train.job import Materials, autocast
from launcher.train.loader import to_device
from launcher.train.progress import Progress
from launcher.train.samples import KeyedBatches, Wanted
from launcher.train.task_losses import TaskLosses, loss_weights

Say = Callable[[str], None]
Gather = Callable[[Any], list[Any]]
_LARGEST = 2**28  # bytes of a message: beyond that, time grows with bytes and nothing else
_SECONDS = 3.0  # that an all-reduce is timed for, about
_COMPUTING_SECONDS = 8.0  # and micro-steps: how fast a shared machine computes comes and goes within seconds
_LEAST, _MOST = 3, 60  # times
_IN_A_ROW = 32  # at most: what takes less time than it takes to begin together is timed so many times at once
_LONG = 0.25  # seconds that need nothing in a row


def measure_network(
    plan: Plan, materials: Materials, rank: int, device: torch.device, gather: Gather, say: Say
) -> NetworkMeasured:
    """Time all-reduces and micro-steps; all ranks do the same at the same time, and have the same result.

    Args:
        plan: the plan, with the facts of the materials.
        materials: the user's objects.
        rank: this rank.
        device: its device.
        gather: tells all ranks what each has.
        say: told what is being done.
    """
    world_size = plan.topology.world_size
    traffic = traffic_of(plan)
    clock = _Clock(device, gather)
    latency = message_bytes = message_seconds = None
    if world_size > 1:
        say("an all-reduce of four bytes")
        one = torch.zeros(1, device=device)
        latency = clock.time_in_a_row(lambda: dist.all_reduce(one))
        message_bytes = max(4, min(traffic.largest, _LARGEST) // 4 * 4)
        say(f"an all-reduce of {message_bytes:,} bytes")
        message = torch.zeros(message_bytes // 4, device=device)
        message_seconds = clock.time(lambda: dist.all_reduce(message))
    say("a micro-step of the model")  # last: what starts the ranks has come to rest, and leaves them the machine
    take = _micro_step(plan, materials, rank, device)
    micro_seconds = clock.time_in_a_row(take, _COMPUTING_SECONDS)  # as in a window
    return NetworkMeasured(
        parameters=materials.parameters,
        bytes_per_update=traffic.per_update(plan.batch.accumulation),
        once_bytes=traffic.once,
        each_bytes=traffic.each,
        latency=latency,
        message_bytes=message_bytes,
        message_seconds=message_seconds,
        micro_samples=plan.batch.micro,
        micro_seconds=micro_seconds,
    )


class _Clock:
    """Times what all ranks do together.

    Args:
        device: of this rank, which is waited for.
        gather: tells all ranks what each has.
    """

    def __init__(self, device: torch.device, gather: Gather) -> None:
        self._device = device
        self._gather = gather

    def time(self, do: Callable[[], object], seconds: float = _SECONDS) -> float:
        """Seconds that it takes the slowest rank, each time: the median, after a first time that is not counted.

        Args:
            do: what is timed.
            seconds: for how long about, over and over again.
        """
        self._once(do)
        first = max(self._gather(self._once(do)))
        times = min(max(round(seconds / max(first, 1e-9)), _LEAST), _MOST)
        by_rank: list[list[float]] = self._gather([self._once(do) for _ in range(times)])
        slowest: list[float] = [max(each) for each in zip(*by_rank, strict=True)]
        return median(slowest)

    def time_in_a_row(self, do: Callable[[], object], seconds: float = _SECONDS) -> float:
        """The same of what is done several times in a row, without waiting for the others in between."""
        self._once(do)
        first: float = max(self._gather(self._once(do)))
        times = min(max(round(_LONG / max(first, 1e-9)), 1), _IN_A_ROW)

        def row() -> None:
            for _ in range(times):
                do()

        return self.time(row, seconds) / times

    def _once(self, do: Callable[[], object]) -> float:
        self._gather(None)  # all begin together
        began = perf_counter()
        do()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return perf_counter() - began


def _micro_step(plan: Plan, materials: Materials, rank: int, device: torch.device) -> Callable[[], object]:
    """Forward and backward of a micro-batch of this rank, of which nothing crosses the network."""
    recipe, task = plan.recipe, materials.task
    losses = TaskLosses(task, recipe.multitask)
    model = materials.model.to(device)
    accumulation = Accumulation(
        SingleEngine(model, device),
        losses,
        loss_weights(recipe.multitask),
        recipe.multitask.backward,
        autocast(recipe, device),
        lambda loss: loss,
        Progress(),
    )
    size, samples = plan.batch.micro, len(materials.train_data)
    indices = [(rank * size + place) % samples for place in range(size)]
    (batch,) = KeyedBatches(task, materials.train_data, recipe.train.seed).here([Wanted(0, indices)])
    # Samples without an item take as long as others.
    items = {name: max(each, 1) for name, each in losses.items(batch, size).items()}
    window = Window(0, 0, 0, size, size, 1, size)
    loaded = LoadedWindow(window, (MicroBatchData(to_device(device)(batch), items),), tuple(items.values()))

    def take() -> None:
        accumulation.accumulate(loaded)

    return take
