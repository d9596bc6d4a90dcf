"""The engines that the tests of the arithmetic run over. To add one: an entry in ENGINES, and its launch in CURVES."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from launcher.recipe.parallel_section import FsdpSection, ParallelSection
from launcher.recipe.schema import Backward, Recipe
from launcher.train.engines.accelerate import AccelerateEngine
from launcher.train.engines.base import Engine
from launcher.train.engines.ddp import DdpEngine
from launcher.train.engines.deferred import DeferredEngine
from launcher.train.engines.exact import ExactEngine
from launcher.train.engines.fsdp import FsdpEngine
from launcher.train.engines.single import SingleEngine

CPU = torch.device("cpu")
PARALLEL = ParallelSection(bucket_mb=0.004)
EVERY: tuple[Backward, ...] = ("joint", "sequential", "shared")


def whole_gradient(engine: Engine) -> Tensor:
    """One vector of all reduced gradients, in the order of the parameters; one without counts as zeros."""
    parameters = engine.model.parameters()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


@dataclass(frozen=True)
class Subject:
    """An engine under test.

    Attributes:
        make: the engine of a model, for more than one rank; its process group is up.
        calls: how many gradient collectives an update should take, by the engine's own account of its buckets.
        recipe: the keys of a recipe with this engine; what its plan says of bytes is held against what was counted.
        editions: the ways that losses can go backward in.
        collectives: functions of torch.distributed that carry gradients, whose calls are counted where they are issued.
        dtype: of the model and the data.
        tolerance: largest relative difference of a gradient from that of the batch that was not split.
        gradient: the reduced gradient as one vector; where ranks hold parts, every rank asks at once.
        virtual_ranks: V, where windows are dealt to virtual ranks.
        alone: the engine where there is one rank.
        worlds: numbers of ranks that it is tested on.
        filling: bytes of an update's reductions that the plan cannot know of.
        splits: names of the ways of splitting windows that it is tested on; None: all.
    """

    make: Callable[[nn.Module], Engine]
    calls: Callable[[Any], int]
    recipe: Mapping[str, Any]
    editions: tuple[Backward, ...] = ("joint",)
    collectives: tuple[str, ...] = ("all_reduce",)
    dtype: torch.dtype = torch.float64
    tolerance: float = 1e-12
    gradient: Callable[[Engine], Tensor] = whole_gradient
    virtual_ranks: int | None = None
    alone: Callable[[nn.Module], Engine] = lambda model: SingleEngine(model, CPU)
    worlds: tuple[int, ...] = (1, 2, 3)
    filling: Callable[[Any], int] = lambda engine: 0
    splits: tuple[str, ...] | None = None

    def engine(self, world: int, model: nn.Module) -> Engine:
        return self.alone(model) if world == 1 else self.make(model)

    def full_recipe(self, parameters: int, batch: Mapping[str, int]) -> Recipe:
        """A recipe with this engine for so many parameters."""
        fixed = {"task": {"entry": "package.module:Task"}, "batch": dict(batch), "model": {"parameters": parameters}}
        return Recipe.model_validate({**fixed, **{key: dict(value) for key, value in self.recipe.items()}})


def buckets_of_ddp(engine: DdpEngine) -> int:
    """How many buckets DDP says that it has, once it has rebuilt them after its first backward."""
    logging: Callable[[], dict[str, Any]] = engine._ddp._get_ddp_logging_data
    return len(str(logging()["rebuilt_bucket_sizes"]).split(","))


def _exact(model: nn.Module) -> Engine:
    return ExactEngine(model, CPU, PARALLEL, torch.distributed.get_world_size(), VIRTUAL_RANKS)


def _exact_alone(model: nn.Module) -> Engine:
    return ExactEngine(model, CPU, PARALLEL, 1, VIRTUAL_RANKS)


def whole(values: Tensor) -> Tensor:
    """A tensor of which this rank may have a part; every rank must ask."""
    full: Callable[[], Tensor] | None = getattr(values, "full_tensor", None)
    return values if full is None else full()


def _gathered_gradient(engine: Engine) -> Tensor:
    return torch.cat([whole(p.grad).flatten() for p in engine.model.parameters() if p.grad is not None])


def filled_up(model: nn.Module, shards: int) -> int:
    """Bytes by which FSDP fills the rows of parameters up to a multiple of the ranks that share them."""
    return sum(-len(p) % shards * p[0].numel() * p.element_size() for p in model.parameters())


VIRTUAL_RANKS = 4  # which three ranks own unevenly
UPDATES = {"updates": 1}
# FSDP's reduce-scatter has another name since torch 2.13.
REDUCE_SCATTER = (
    "reduce_scatter_single" if hasattr(torch.distributed, "reduce_scatter_single") else "reduce_scatter_tensor"
)
ENGINES: dict[str, Subject] = {
    "ddp": Subject(
        make=lambda model: DdpEngine(model, CPU, PARALLEL),
        calls=buckets_of_ddp,
        recipe={"train": UPDATES, "parallel": {"engine": "ddp"}},
    ),
    "deferred": Subject(
        make=lambda model: DeferredEngine(model, CPU, PARALLEL),
        calls=lambda engine: len(engine._reduction.buckets),
        recipe={"train": UPDATES, "parallel": {"engine": "ddp"}},
        editions=EVERY,
    ),
    "accelerate": Subject(
        make=lambda model: AccelerateEngine(model, CPU, PARALLEL),
        calls=buckets_of_ddp,
        recipe={"train": UPDATES, "parallel": {"engine": "accelerate"}},
    ),
    "fsdp": Subject(
        make=lambda model: FsdpEngine(model, CPU, FsdpSection(wrap=("Sequential",))),
        calls=lambda engine: len(engine._modules),
        recipe={"train": UPDATES, "parallel": {"engine": "fsdp", "fsdp": {"wrap": ("Sequential",)}}},
        collectives=(REDUCE_SCATTER,),
        gradient=_gathered_gradient,
        filling=lambda engine: filled_up(engine.model, engine.shards),
        splits=("K=4", "uneven ranks", "fewer samples than ranks"),  # each case takes seconds
    ),
    "exact": Subject(
        make=_exact,
        calls=lambda engine: 2 * len(engine._buckets),  # to all the parts, and their sums to all
        recipe={"train": {**UPDATES, "determinism": "exact", "virtual_ranks": VIRTUAL_RANKS}},
        editions=EVERY,
        collectives=("all_to_all_single", "all_gather"),
        virtual_ranks=VIRTUAL_RANKS,
        alone=_exact_alone,
    ),
}
# Engine → what `launcher run` is told to train with it; its loss curve is held against that of ddp.
CURVES: dict[str, tuple[str, ...]] = {
    "accelerate": ("parallel.engine=accelerate",),
    "fsdp": ("parallel.engine=fsdp", "parallel.fsdp.wrap=[Block]"),
    "accelerate, started by accelerate": ("parallel.engine=accelerate", "launch.method=accelerate"),
    **{
        f"deepspeed, ZeRO {stage}": ("parallel.engine=deepspeed", f"parallel.deepspeed.stage={stage}")
        for stage in range(4)
    },
    "deepspeed, started by accelerate": ("parallel.engine=deepspeed", "launch.method=accelerate"),
}
