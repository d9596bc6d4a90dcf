"""A model in parts: which of its modules are gathered together, and over which ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

from launcher.errors import Mistake, RequestError
from launcher.recipe.parallel_section import FsdpSection
from launcher.train.engines.process_group import broadcast_from_first, gather
from launcher.train.engines.shard_traffic import CountedAllGather, CountedReduceScatter, ShardTraffic
from launcher.train.guard import checksums

_MOST_NAMES = 12
_WRAP = "parallel.fsdp.wrap"


def blocks_of(model: nn.Module, wrap: Sequence[str]) -> list[nn.Module]:
    """The modules of the classes that the recipe names, outer ones before those in them.

    Args:
        model: the user's model.
        wrap: names of classes.

    Raises:
        RequestError: the model has none of a class.
    """
    present = {type(module).__name__: None for module in model.modules() if module is not model}
    unknown = [name for name in wrap if name not in present and name != type(model).__name__]
    if unknown:
        shown = list(present)[:_MOST_NAMES]
        more = f" and {len(present) - _MOST_NAMES} more" if len(present) > _MOST_NAMES else ""
        has = f"its classes are {', '.join(shown)}{more}" if shown else "it has no modules in it"
        cure = "Name the class of its blocks, which are gathered one at a time"
        raise RequestError([Mistake(_WRAP, f"the model has no {name}; {has}", cure) for name in unknown])
    return [module for module in model.modules() if type(module).__name__ in wrap]


def compute_again_in_backward(blocks: Sequence[nn.Module]) -> None:
    """Keep what goes into each block, and not what it computes: its forward runs once more before its backward.

    The block stays what it is, and so do the names of its parameters. A block within a block is left as it is.
    """
    inner = {id(module) for block in blocks for module in block.modules() if module is not block}
    for block in blocks:
        if id(block) not in inner:
            block.forward = partial(_checkpointed, block.forward)


def _checkpointed(forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, **named)


def mesh_of(device: torch.device, copies: int, timeout: float) -> DeviceMesh:
    """The ranks: in one row that shares a model out, or in several rows that have a copy each.

    Args:
        device: of this rank.
        copies: of the model.
        timeout: seconds that a rank waits for the others of its row or column; groups that a mesh makes by itself have
            the default of half an hour.
    """
    world = dist.get_world_size()
    if copies == 1:
        return init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))  # of the default process group
    rows = torch.arange(world).view(copies, -1)
    groups = [_group_of(lines.tolist(), timedelta(seconds=timeout)) for lines in (rows.T, rows)]
    return DeviceMesh.from_group(groups, device.type, mesh=rows, mesh_dim_names=("copy", "shard"))


def _group_of(lines: list[list[int]], timeout: timedelta) -> dist.ProcessGroup:
    """The group of this rank among those of the given ranks, which all ranks make together."""
    group: dist.ProcessGroup
    group, _ = dist.new_subgroups_by_enumeration(lines, timeout=timeout)  # type: ignore[no-untyped-call]  # torch's
    return group


def shard(
    root: nn.Module,
    blocks: Sequence[nn.Module],
    mesh: DeviceMesh,
    settings: FsdpSection,
    precision: MixedPrecisionPolicy,
    traffic: ShardTraffic,
) -> list[FSDPModule]:
    """Share out the parameters of a model, each block by itself, and what is in none of them together.

    Gradients are added. FSDP would average them, and each of its modules has to be told.

    Args:
        root: the module that forward passes enter.
        blocks: modules in it, outer ones before those in them.
        mesh: the ranks.
        settings: the recipe's `parallel.fsdp`.
        precision: of the parameters that are gathered and the gradients that are reduced.
        traffic: notes what is issued.

    Returns:
        The root, and its blocks, outer ones first.

    Raises:
        RequestError: a parameter cannot be shared out, or two blocks hold it.
    """
    _refuse_numbers(root)
    refuse_cut_ties(root, blocks)
    _give_all_ranks_the_same(root)
    for block in reversed(blocks):  # inner ones first: an outer one takes what is left
        fully_shard(block, mesh=mesh, reshard_after_forward=settings.reshard_after_forward, mp_policy=precision)
    fully_shard(root, mesh=mesh, reshard_after_forward=False, mp_policy=precision)
    modules = list(sharded_modules(root))
    for module in modules:
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no sum of multiples
        module.set_custom_all_gather(CountedAllGather(traffic))
        module.set_custom_reduce_scatter(CountedReduceScatter(traffic))
        if mesh.ndim > 1:  # where a hook comes after the all-reduce of the copies
            module.set_all_reduce_hook(lambda reduced: traffic.reduced.append(reduced.nbytes))
    return modules


def refuse_cut_ties(root: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Make sure that no parameter would be gathered in two places, which torch ends in a ValueError.

    Args:
        root: the module that forward passes enter.
        blocks: modules in it that are gathered by themselves, before they are shared out.

    Raises:
        RequestError: modules share a parameter, and lie neither in the same block nor both outside of all blocks.
    """
    mistakes: dict[tuple[str, ...], Mistake] = {}
    for (first, within), *others in _uses(root, blocks):
        for second, around in others:
            if around[-1:] != within[-1:]:
                cut = [block for block in (*within, *around) if (block in within) != (block in around)]
                kinds = tuple(dict.fromkeys(type(block).__name__ for block in cut))
                what = f"{first} ({_place(within)}) and {second} ({_place(around)}) are one parameter"
                cure = f"Leave {' and '.join(kinds)} out of it"
                mistakes.setdefault(kinds, Mistake(_WRAP, f"{what}, which fsdp can gather in one place only", cure))
    if mistakes:
        raise RequestError(mistakes.values())


def sharded_modules(root: nn.Module) -> Iterator[FSDPModule]:
    """The modules that gather and let go of their parameters as one, outer ones first."""
    return (module for module in root.modules() if isinstance(module, FSDPModule))


def _refuse_numbers(model: nn.Module) -> None:
    numbers = [name for name, parameter in model.named_parameters() if not parameter.ndim]
    if numbers:
        what = f"fsdp shares out rows, and the parameter {numbers[0].removeprefix('model.')} is a single number"
        raise RequestError([Mistake("parallel.engine", what, "Give it the shape [1], or parallel.engine=ddp")])


def _uses(root: nn.Module, blocks: Sequence[nn.Module]) -> Iterable[list[tuple[str, tuple[nn.Module, ...]]]]:
    """Of each parameter every name that it has, with the blocks that it lies in by that name, outer ones first."""
    kept = {id(block) for block in blocks}
    around: dict[str, tuple[nn.Module, ...]] = {}
    uses: dict[int, list[tuple[str, tuple[nn.Module, ...]]]] = {}
    for path, module in root.named_modules(remove_duplicate=False):
        outer = around.get(path.rpartition(".")[0], ())
        around[path] = (*outer, module) if id(module) in kept else outer
        for name, parameter in module.named_parameters(path, recurse=False):
            uses.setdefault(id(parameter), []).append((name.removeprefix("model."), around[path]))
    return uses.values()


def _place(within: Sequence[nn.Module]) -> str:
    return f"in {type(within[-1]).__name__}" if within else "in no block"


def _give_all_ranks_the_same(model: nn.Module) -> None:
    """What rank 0 has built is what all share out: else a model would be put together from several."""
    own = [int(checksum) for checksum in checksums(model)]
    if any(other != own for other in gather(own)):
        broadcast_from_first(model.parameters())
    broadcast_from_first(model.buffers())
